"""Client ranks that are lost and come back while the run goes on (fed.lost=go_on).

membership.py keeps who takes part, pulse.py finds out who lives, service.py is the server's side of it, welcome.py the
aggregator's, comeback.py that of the client rank; anew.py starts its process again.
"""
