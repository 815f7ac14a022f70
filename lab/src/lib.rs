//! The lab: network namespaces, a WAN link with delay, rate and loss, and real servers and clients in them.
