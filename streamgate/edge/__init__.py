"""The only importer of Sanic beside the admin: bytes in, an exchange out; bytes out again."""
