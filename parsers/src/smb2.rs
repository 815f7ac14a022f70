//! SMB 2.0.2 to 3.1.1 messages, as far as Wanigan reads them (MS-SMB2 section 2.2).
