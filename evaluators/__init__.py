"""The judge: heuristic contract, dispatch mirror, gate, sandbox, kernels, timing, tables, scores.

Data flows one way: source, decisions, launches, latencies, score. Nothing here imports `evolve`.
"""
