//! The header of every packet (virtio 1.2, section 5.10.6).

/// Bytes of `struct virtio_vsock_hdr`.
pub const HEADER_BYTES: usize = 44;

/// The context identifier of the host (section 5.10.4).
pub const HOST_CID: u64 = 2;

/// `VIRTIO_VSOCK_TYPE_STREAM` (section 5.10.6).
const TYPE_STREAM: u16 = 1;

/// What a packet is for: `VIRTIO_VSOCK_OP_*` (section 5.10.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum Op {
    /// Asks for a connection.
    Request = 1,
    /// Grants it.
    Response = 2,
    /// There is no such connection, or no more.
    Reset = 3,
    /// Half of a connection ends, or both: [`RECEIVE`] and [`SEND`].
    Shutdown = 4,
    /// Data.
    Data = 5,
    /// Says how much the sender takes.
    CreditUpdate = 6,
    /// Asks for that.
    CreditRequest = 7,
}

/// The sender of a [`Op::Shutdown`] will receive no more (section 5.10.6.5).
pub const RECEIVE: u32 = 1;
/// The sender of a [`Op::Shutdown`] will send no more (section 5.10.6.5).
pub const SEND: u32 = 2;

/// The two ports of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ports {
    /// The host's.
    pub host: u32,
    /// The guest's.
    pub guest: u32,
}

/// A header, all of whose fields may be anything.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Header {
    /// Context of the sender.
    pub src_cid: u64,
    /// Context of the receiver.
    pub dst_cid: u64,
    /// Port of the sender.
    pub src_port: u32,
    /// Port of the receiver.
    pub dst_port: u32,
    /// Bytes behind the header.
    pub length: u32,
    /// Kind of socket.
    pub kind: u16,
    /// What it is for.
    pub op: u16,
    /// Of a shutdown.
    pub flags: u32,
    /// Bytes that the sender takes without reading any.
    pub buf_alloc: u32,
    /// Bytes that the sender has read so far, modulo 2^32.
    pub fwd_cnt: u32,
}

impl Header {
    /// A header from `ports.host` of the host to `ports.guest` of the guest `cid`, with nothing behind it.
    pub fn to_guest(cid: u32, ports: Ports, op: Op) -> Self {
        Self {
            src_cid: HOST_CID,
            dst_cid: cid.into(),
            src_port: ports.host,
            dst_port: ports.guest,
            kind: TYPE_STREAM,
            op: op as u16,
            ..Self::default()
        }
    }

    /// The ports, of a packet that the guest has sent.
    pub fn ports(&self) -> Ports {
        Ports { host: self.dst_port, guest: self.src_port }
    }

    /// What it is for, if it is for something that there is for streams.
    pub fn op(&self) -> Option<Op> {
        let known = [Op::Request, Op::Response, Op::Reset, Op::Shutdown, Op::Data, Op::CreditUpdate, Op::CreditRequest];
        known.into_iter().find(|op| self.kind == TYPE_STREAM && *op as u16 == self.op)
    }

    /// From how it lies in memory.
    pub fn from_bytes(bytes: &[u8; HEADER_BYTES]) -> Self {
        let mut rest = &bytes[..];
        Self {
            src_cid: u64::from_le_bytes(first(&mut rest)),
            dst_cid: u64::from_le_bytes(first(&mut rest)),
            src_port: u32::from_le_bytes(first(&mut rest)),
            dst_port: u32::from_le_bytes(first(&mut rest)),
            length: u32::from_le_bytes(first(&mut rest)),
            kind: u16::from_le_bytes(first(&mut rest)),
            op: u16::from_le_bytes(first(&mut rest)),
            flags: u32::from_le_bytes(first(&mut rest)),
            buf_alloc: u32::from_le_bytes(first(&mut rest)),
            fwd_cnt: u32::from_le_bytes(first(&mut rest)),
        }
    }

    /// As it lies in memory.
    pub fn to_bytes(self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        let parts: [&[u8]; 10] = [
            &self.src_cid.to_le_bytes(),
            &self.dst_cid.to_le_bytes(),
            &self.src_port.to_le_bytes(),
            &self.dst_port.to_le_bytes(),
            &self.length.to_le_bytes(),
            &self.kind.to_le_bytes(),
            &self.op.to_le_bytes(),
            &self.flags.to_le_bytes(),
            &self.buf_alloc.to_le_bytes(),
            &self.fwd_cnt.to_le_bytes(),
        ];
        for (to, from) in bytes.iter_mut().zip(parts.into_iter().flatten()) {
            *to = *from;
        }
        bytes
    }
}

/// Takes the first bytes off `rest`; zeros where there are none.
fn first<const N: usize>(rest: &mut &[u8]) -> [u8; N] {
    let (bytes, behind) = rest.split_first_chunk().unwrap_or((&[0; N], &[]));
    *rest = behind;
    *bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_fields_lie_where_the_specification_has_them() {
        let mut bytes = [0; HEADER_BYTES];
        bytes.iter_mut().zip(1..).for_each(|(byte, n)| *byte = n);
        let header = Header::from_bytes(&bytes);
        assert_eq!(header.src_cid, 0x0807_0605_0403_0201);
        assert_eq!(header.dst_port, 0x1817_1615);
        assert_eq!((header.kind, header.op), (0x1e1d, 0x201f));
        assert_eq!(header.fwd_cnt, 0x2c2b_2a29);
        assert_eq!(header.op(), None);
    }

    #[test]
    fn only_streams_have_a_meaning() {
        let header = Header::to_guest(3, Ports { host: 1, guest: 2 }, Op::Data);
        assert_eq!(header.op(), Some(Op::Data));
        assert_eq!(Header { kind: 2, ..header }.op(), None);
        assert_eq!(Header { op: 0, ..header }.op(), None);
    }

    proptest! {
        #[test]
        fn there_and_back(bytes in any::<[u8; 32]>(), rest in any::<[u8; 12]>()) {
            let mut all = [0; HEADER_BYTES];
            all[..32].copy_from_slice(&bytes);
            all[32..].copy_from_slice(&rest);
            prop_assert_eq!(Header::from_bytes(&all).to_bytes(), all);
        }
    }
}
