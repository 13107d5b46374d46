"""SageMaker: what runs inside its containers (`container`), and what asks for them (the other modules).

Nothing here trains, tracks or serves: the jobs call the functions that a laptop calls. boto3 is imported when a request
is really made (`pip install 'rallytrace[aws]'`).
"""
