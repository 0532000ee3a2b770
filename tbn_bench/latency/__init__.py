"""gate -> warm up -> time -> LatencyRecord. timing states the rules, peers the competitors, networks and ops what is timed."""
