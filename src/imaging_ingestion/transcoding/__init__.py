"""Data sets into other transfer syntaxes, for whoever sends them: `Transcoder`.

Between uncompressed transfer syntaxes they are converted as they stream. Where pixels have to be
decoded or encoded, a process of its own does it: codecs are large, written in C, and fed with what
others made.
"""
