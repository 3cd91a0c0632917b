"""The life of a request.

=  ========  =================================================================================  ==================
#  stage     does                                                                               may end in
=  ========  =================================================================================  ==================
1  enter     bytes become an ``Exchange``; framing guard, client address, request id, trace     400 408 414 431 501
             context; the configuration snapshot is pinned (``edge.lane``)
2  match     host, canonical path, method find a ``Plan`` (``routers.paths``)                   400 404 405
3  admit     reasons to refuse, cheapest first: a loop, a body too large, a gate that drains    413 503 508
5  wait      for models: the body is read, the flag asked, a turn waited for in order           400 404 429
             (``pipeline.prompting``, ``pipeline.turn``)
6  choose    for models: the split picks a target by weight or key, the target an endpoint      503
             (``pipeline.course``)
7  send      an endpoint is picked, a connection taken or made, the request written; again      502 503 504
             while nothing is committed and the budget allows (``pipeline.upstream``)
8  relay     bytes until either side ends (``sessions.relay``); for models through a tap that   in-band error
             reads the usage (``pipeline.metering``)
9  settle    always, once: leases, counts, usage, one record, metrics (``pipeline.run``)        \N{EN DASH}
=  ========  =================================================================================  ==================

Stage 4 (shape) stands in DESIGN §4 and comes with the policies that need it. A route to a service or to an answer has neither
stage 5 nor 6, and pays for neither. A request to a model may also share a call with others (``pipeline.sharing``): it then rides in
a seat, which is to its relay what an upstream connection is to another's.

*Committed* means: the first meaningful byte has gone to the client. Before it faults become statuses and another attempt is
allowed; after it, neither. A lease is held until the last byte. ``exchange.MOVES`` is the table of states, ``Terminal`` the list of
ends; every exchange that reaches *send* ends in exactly one of them.
"""
