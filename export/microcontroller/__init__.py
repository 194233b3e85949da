"""C code for microcontrollers: what ``export.bundle`` writes, in parts.

``network`` reads an integer artifact, ``schedule`` says in which order rows are computed and which
buffers that takes, ``planner`` gives the buffers their places, ``source`` writes the C, ``vectors``
the expected results, and ``folder`` puts everything on the disk.
"""
