"""The controlled experiment: video towers on equal terms.

The rooms:
    worlds_mix.py   training and held-out worlds of rising difficulty, of more objects, of longer clips
    systems.py      the towers with the same number of weights, and variations of TrajViT2
    scores.py       zero-shot, retrieval and linear probes, by difficulty, number of objects and length of clip
    costs.py        FLOPs of a training step; FLOPs, tokens, latency and peak memory of inference
    report.py       tables and plots of what was measured
"""
