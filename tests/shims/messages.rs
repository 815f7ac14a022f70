//! SMB2 messages for tests, with the fields that the shim looks at.

/// The session and tree of all messages made here.
pub(crate) const SESSION: u64 = 0x51;
/// See [`SESSION`].
pub(crate) const TREE: u32 = 0x7e;

pub(crate) const READ: u16 = 8;
pub(crate) const WRITE: u16 = 9;
pub(crate) const TREE_CONNECT: u16 = 3;
pub(crate) const CANCEL: u16 = 12;

pub(crate) const RESPONSE: u32 = 1;
pub(crate) const ASYNC: u32 = 2;
pub(crate) const RELATED: u32 = 4;

pub(crate) const PENDING: u32 = 0x103;
pub(crate) const END_OF_FILE: u32 = 0xc000_0011;

/// Puts a packet header before a payload (MS-SMB2 2.1).
pub(crate) fn frame(payload: &[u8]) -> Vec<u8> {
    let len = u32::try_from(payload.len()).unwrap();
    [&len.to_be_bytes()[..], payload].concat()
}

/// A frame of one chain: padded to 8 bytes but for the last, linked by NextCommand.
pub(crate) fn chain(messages: &[Vec<u8>]) -> Vec<u8> {
    let mut payload = Vec::new();
    for (at, message) in messages.iter().enumerate() {
        let mut message = message.clone();
        if at + 1 < messages.len() {
            message.resize(message.len().next_multiple_of(8), 0);
            let next = u32::try_from(message.len()).unwrap();
            message[20..24].copy_from_slice(&next.to_le_bytes());
        }
        payload.extend_from_slice(&message);
    }
    frame(&payload)
}

/// A header and a body.
pub(crate) fn message(command: u16, flags: u32, status: u32, message_id: u64, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; 64];
    bytes[..4].copy_from_slice(b"\xfeSMB");
    bytes[4] = 64;
    bytes[8..12].copy_from_slice(&status.to_le_bytes());
    bytes[12..14].copy_from_slice(&command.to_le_bytes());
    bytes[16..20].copy_from_slice(&flags.to_le_bytes());
    bytes[24..32].copy_from_slice(&message_id.to_le_bytes());
    bytes[36..40].copy_from_slice(&TREE.to_le_bytes());
    bytes[40..48].copy_from_slice(&SESSION.to_le_bytes());
    bytes.extend_from_slice(body);
    bytes
}

pub(crate) fn read_request(message_id: u64, offset: u64, length: u32) -> Vec<u8> {
    let mut body = [0; 49];
    body[0] = 49;
    body[4..8].copy_from_slice(&length.to_le_bytes());
    body[8..16].copy_from_slice(&offset.to_le_bytes());
    message(READ, 0, 0, message_id, &body)
}

pub(crate) fn read_response(message_id: u64, data: &[u8]) -> Vec<u8> {
    read_response_at(message_id, 80, data)
}

/// A READ response with a gap of arbitrary bytes before its data.
pub(crate) fn read_response_at(message_id: u64, data_offset: u8, data: &[u8]) -> Vec<u8> {
    let mut body = vec![0; 16];
    body[0] = 17;
    body[2] = data_offset;
    body[4..8].copy_from_slice(&u32::try_from(data.len()).unwrap().to_le_bytes());
    body.resize(usize::from(data_offset.max(80)) - 64, 0xee);
    body.extend_from_slice(data);
    message(READ, RESPONSE, 0, message_id, &body)
}

pub(crate) fn error_response(command: u16, flags: u32, status: u32, message_id: u64) -> Vec<u8> {
    message(command, RESPONSE | flags, status, message_id, &[9, 0, 0, 0, 0, 0, 0, 0, 0x21])
}

pub(crate) fn write_request(message_id: u64, offset: u64, data: &[u8]) -> Vec<u8> {
    let mut body = vec![0; 48];
    body[0] = 49;
    body[2] = 112;
    body[4..8].copy_from_slice(&u32::try_from(data.len()).unwrap().to_le_bytes());
    body[8..16].copy_from_slice(&offset.to_le_bytes());
    body.extend_from_slice(data);
    message(WRITE, 0, 0, message_id, &body)
}

pub(crate) fn tree_connect_response(message_id: u64, share_type: u8) -> Vec<u8> {
    let mut body = [0; 16];
    body[0] = 16;
    body[2] = share_type;
    message(TREE_CONNECT, RESPONSE, 0, message_id, &body)
}
