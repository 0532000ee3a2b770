"""gate -> warm up -> time -> LatencyRecord.

timing states the rules, peers has the competitors, networks and ops have the cases.
"""
