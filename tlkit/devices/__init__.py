"""Devices to compute on: choose them, handle their memory, query the driver.

Files:
    request.py  check that the requested devices exist, before torch is loaded
    kinds.py    DEVICES, the table of what differs between a CPU and a GPU
    select.py   choose devices and precision; put models on them
    memory.py   peak memory of a run; retry in smaller parts after out of memory
    nvml.py     GPU memory and use, from NVIDIA's driver

May import: distributed, options, terminal, errors.
"""
