"""What every web server of the project has before its routes: `connections` bounds who may hold one and for how long,
`names` says under which addresses it is called and who may speak for others, `tls` and `server` start it.
"""
