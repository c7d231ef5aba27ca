"""Split a network over several devices in one process (`--parallel model`).

Files:
    trace.py  trace one forward pass and find where the network can be cut
    split.py  put the stages on devices and move activations between them

May import: devices, data, files, options, terminal, interruption, errors.
"""
