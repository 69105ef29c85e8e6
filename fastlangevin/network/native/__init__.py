"""Recorded evaluations as programs of instructions over the numbers of each sample, which native kernels run.

`lowering.lower` writes a program from a graph; `csrc/cpu/program.h` has the instructions.
"""
