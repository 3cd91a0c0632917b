"""Where a request goes: paths, pools, balance. Decisions only; synchronous; no Sanic, no sockets."""
