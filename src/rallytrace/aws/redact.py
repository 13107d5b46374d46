"""No credentials in logs, errors and failure files."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

SECRETS = ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_CONTAINER_AUTHORIZATION_TOKEN", "RALLYTRACE_API_KEY")
SIGNED = re.compile(r"(?i)(X-Amz-(?:Signature|Credential|Security-Token)=)[^&\s\"']+|\b(AKIA|ASIA)[A-Z0-9]{16}\b")


def clean(text: str, environ: Mapping[str, str] = os.environ) -> str:
    """`text` without credentials: keys of the environment, signatures of URLs, access key ids."""
    for name in SECRETS:
        if len(environ.get(name, "")) > 7:
            text = text.replace(environ[name], "***")
    return SIGNED.sub(lambda found: (found[1] or "") + "***", text)
