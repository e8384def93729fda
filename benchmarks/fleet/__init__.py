"""Discrete-event simulation of many copies of the service behind a balancer, and its calibration by three real ones.

A copy is described by what a step costs and by its limits (replica.py), the requests by a public trace (traffic.py),
the balancer and the autoscaler by the rules of deploy/ (balancer.py, autoscaler.py). Nothing here computes a token.
"""
