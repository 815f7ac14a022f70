//! SMB2 messages for tests, with the fields that the shim looks at.

/// The session and tree of all messages made here.
pub(crate) const SESSION: u64 = 0x51;
/// See [`SESSION`].
pub(crate) const TREE: u32 = 0x7e;

pub(crate) const READ: u16 = 8;
pub(crate) const WRITE: u16 = 9;
pub(crate) const LOGOFF: u16 = 2;
pub(crate) const TREE_CONNECT: u16 = 3;
pub(crate) const TREE_DISCONNECT: u16 = 4;
pub(crate) const CREATE: u16 = 5;
pub(crate) const CLOSE: u16 = 6;
pub(crate) const IOCTL: u16 = 11;
pub(crate) const QUERY_INFO: u16 = 16;
pub(crate) const SET_INFO: u16 = 17;
pub(crate) const CANCEL: u16 = 12;

pub(crate) const RESPONSE: u32 = 1;
pub(crate) const ASYNC: u32 = 2;
pub(crate) const RELATED: u32 = 4;

pub(crate) const PENDING: u32 = 0x103;
/// The FileId of the request before in a chain.
pub(crate) const PREVIOUS: [u8; 16] = [0xff; 16];

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

pub(crate) fn tree_connect_request(message_id: u64, path: &str) -> Vec<u8> {
    let path = utf16(path);
    let mut body = vec![9, 0, 0, 0, 72, 0];
    body.extend(u16::try_from(path.len()).unwrap().to_le_bytes());
    body.extend(path);
    message(TREE_CONNECT, 0, 0, message_id, &body)
}

/// A CREATE request that opens what is there.
pub(crate) fn create_request(message_id: u64, name: &str, contexts: &[u8]) -> Vec<u8> {
    let name = utf16(name);
    let mut body = vec![0; 56];
    body[0] = 57;
    body[36] = 1;
    body[44] = 120;
    body[46..48].copy_from_slice(&u16::try_from(name.len()).unwrap().to_le_bytes());
    body.extend(name);
    if contexts.is_empty() {
        // The buffer has one byte at least.
        body.resize(body.len().max(57), 0);
    } else {
        body.resize(body.len().next_multiple_of(8), 0);
        let offset = u32::try_from(64 + body.len()).unwrap();
        body[48..52].copy_from_slice(&offset.to_le_bytes());
        body[52..56].copy_from_slice(&u32::try_from(contexts.len()).unwrap().to_le_bytes());
        body.extend(contexts);
    }
    message(CREATE, 0, 0, message_id, &body)
}

/// A create context of 32 bytes, or more if its data need them; not the last one of its list if `more`.
pub(crate) fn context(name: &[u8], data: &[u8], more: bool) -> Vec<u8> {
    let data_offset = (16 + name.len()).next_multiple_of(8);
    let mut bytes = vec![0; data_offset];
    bytes[4] = 16;
    bytes[6] = u8::try_from(name.len()).unwrap();
    bytes[10] = u8::try_from(data_offset).unwrap();
    bytes[12..16].copy_from_slice(&u32::try_from(data.len()).unwrap().to_le_bytes());
    bytes[16..16 + name.len()].copy_from_slice(name);
    bytes.extend(data);
    bytes.resize(bytes.len().next_multiple_of(8).max(32), 0);
    if more {
        let next = u32::try_from(bytes.len()).unwrap();
        bytes[..4].copy_from_slice(&next.to_le_bytes());
    }
    bytes
}

/// What a server says of a file that it opened.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Opened {
    pub(crate) file: [u8; 16],
    pub(crate) action: u8,
    pub(crate) last_write: u64,
    pub(crate) change: u64,
    pub(crate) len: u64,
    pub(crate) attributes: u8,
}

/// A file of 1000 bytes that was there.
pub(crate) const OPENED: Opened =
    Opened { file: [0xf1; 16], action: 1, last_write: 0x11, change: 0x22, len: 1000, attributes: 0x20 };

pub(crate) fn create_response(message_id: u64, opened: Opened) -> Vec<u8> {
    let mut body = [0; 88];
    body[0] = 89;
    body[4] = opened.action;
    body[24..32].copy_from_slice(&opened.last_write.to_le_bytes());
    body[32..40].copy_from_slice(&opened.change.to_le_bytes());
    body[48..56].copy_from_slice(&opened.len.to_le_bytes());
    body[56] = opened.attributes;
    body[64..80].copy_from_slice(&opened.file);
    message(CREATE, RESPONSE, 0, message_id, &body)
}

pub(crate) fn close_request(message_id: u64, file: [u8; 16]) -> Vec<u8> {
    of_file(message(CLOSE, 0, 0, message_id, &[24; 24]), file)
}

pub(crate) fn close_response(message_id: u64) -> Vec<u8> {
    message(CLOSE, RESPONSE, 0, message_id, &[60; 60])
}

pub(crate) fn ioctl_request(message_id: u64, file: [u8; 16], code: u32) -> Vec<u8> {
    let mut body = [0; 57];
    body[0] = 57;
    body[4..8].copy_from_slice(&code.to_le_bytes());
    of_file(message(IOCTL, 0, 0, message_id, &body), file)
}

/// Puts a FileId into a request.
pub(crate) fn of_file(mut request: Vec<u8>, file: [u8; 16]) -> Vec<u8> {
    let at = match u16::from_le_bytes([request[12], request[13]]) {
        READ | WRITE | SET_INFO => 16,
        QUERY_INFO => 24,
        _ => 8,
    };
    request[64 + at..64 + at + 16].copy_from_slice(&file);
    request
}

/// Makes a request work on what the one before in the chain works on.
pub(crate) fn related(mut request: Vec<u8>) -> Vec<u8> {
    request[16] |= u8::try_from(RELATED).unwrap();
    request
}

/// Has a message work on that tree.
pub(crate) fn of_tree(mut message: Vec<u8>, tree: u32) -> Vec<u8> {
    message[36..40].copy_from_slice(&tree.to_le_bytes());
    message
}

pub(crate) fn utf16(text: &str) -> Vec<u8> {
    text.encode_utf16().flat_map(u16::to_le_bytes).collect()
}
