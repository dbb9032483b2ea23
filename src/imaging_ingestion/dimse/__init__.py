"""DICOM networking without I/O (PS3.7, PS3.8): bytes in, events out; commands in, bytes out.

    upper_layer     one association over one connection: state, pdu_reader, pdu, p_data, event
    acceptor, requestor, negotiation    what two application entities agree on
    message         DIMSE messages on it: command, command_codec, status, operations
    sop_class       which SOP class belongs to which service

Nothing here knows of sockets, clocks, threads, loggers or await. See docs/dimse.md.
"""
