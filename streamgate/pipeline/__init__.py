"""The life of a request.

=  ========  =================================================================================  ==================
#  stage     does                                                                               may end in
=  ========  =================================================================================  ==================
1  enter     bytes become an ``Exchange``; framing guard, client address, request id, trace     400 408 414 431 501
             context; the configuration snapshot is pinned (``edge.lane``)
2  match     host, canonical path, method find a ``Plan`` (``routers.paths``)                   400 404 405
3  admit     reasons to refuse, cheapest first: a loop, a body too large, a gate that drains    413 503 508
7  send      an endpoint is picked, a connection taken or made, the request written; again      502 503 504
             while nothing is committed and the budget allows (``pipeline.upstream``)
8  relay     bytes until either side ends (``sessions.relay``)                                  in-band error
9  settle    always, once: leases, counts, one record, metrics (``pipeline.run``)               \N{EN DASH}
=  ========  =================================================================================  ==================

Stages 4 to 6 (shape, wait, choose) stand in DESIGN §4 and come with the policies and models that need them.

*Committed* means: the first meaningful byte has gone to the client. Before it faults become statuses and another attempt is
allowed; after it, neither. A lease is held until the last byte. ``exchange.MOVES`` is the table of states, ``Terminal`` the list of
ends; every exchange that reaches *send* ends in exactly one of them.
"""
