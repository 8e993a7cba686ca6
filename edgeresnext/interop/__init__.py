"""A bundle in the files of other programs: Triton, DeepStream, trtexec; each proven before it is published."""
