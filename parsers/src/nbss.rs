//! NetBIOS Session Service framing, also used by Direct TCP (MS-SMB2 2.1, RFC 1002 section 4.3).
