"""Will it fit, how fast, and why, before a GPU second is spent. Pure: stdlib and pydantic; no Django, I/O or clock.

shapes → memory, throughput → placement → plan: a request and a fleet become ranked plans, each with its why.
"""
