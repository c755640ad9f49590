//! A transfer's arithmetic, without sockets and clocks: which blocks to send next, and what an acknowledgement means.
//!
//! Blocks are counted from 1 in 64 bits; only on the wire their numbers have 16 and start again at 0, as every client
//! that takes more than 65535 blocks expects. Nothing is kept in memory: what must be sent again is read again.

/// How far a transfer is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sender {
    block: u64,
    window: u64,
    size: u64,
    /// The last block that the client has.
    has: u64,
    /// The last block that was sent.
    sent: u64,
    /// A block after which sending was begun again already, because the client asked: once is enough until it moves.
    resumed: Option<u64>,
}

/// What an acknowledgement brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The whole file is there.
    Done,
    /// The client has more than before, or misses something: go on sending.
    Send,
    /// Nothing new.
    Wait,
}

/// One block of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Block {
    /// Its number on the wire.
    pub number: u16,
    /// Where it begins.
    pub offset: u64,
    /// Its bytes; fewer than a block's: it is the last.
    pub length: usize,
}

impl Sender {
    /// A file of `size` bytes, in blocks of `block` bytes, `window` of them between two acknowledgements.
    pub fn new(size: u64, block: u64, window: u64) -> Self {
        Self { block: block.max(1), window: window.max(1), size, has: 0, sent: 0, resumed: None }
    }

    /// The number of the last block. It is shorter than the others, and if it must be, empty (RFC 1350 section 6).
    fn last(&self) -> u64 {
        self.size / self.block + 1
    }

    /// Bytes that the client has.
    pub fn arrived(&self) -> u64 {
        (self.has * self.block).min(self.size)
    }

    /// Nothing is left that was not sent once at least.
    pub fn all_sent(&self) -> bool {
        self.sent == self.last()
    }

    /// Everything was sent, and nothing but the acknowledgement of the last window has not come.
    pub fn lacks_the_last_word(&self) -> bool {
        self.all_sent() && self.has > 0 && self.last() - self.has <= self.window
    }

    /// The next block that may be sent now.
    pub fn next_block(&mut self) -> Option<Block> {
        if self.sent == self.last() || self.sent - self.has >= self.window {
            return None;
        }
        let offset = self.sent * self.block;
        self.sent += 1;
        Some(Block { number: self.sent as u16, offset, length: self.block.min(self.size - offset) as usize })
    }

    /// Time is up: what the client does not have is sent again.
    pub fn again(&mut self) {
        self.sent = self.has;
        self.resumed = None;
    }

    /// The client has everything up to `number`.
    pub fn acknowledged(&mut self, number: u16) -> Step {
        let more = u64::from(number.wrapping_sub(self.has as u16));
        if more > self.sent - self.has {
            // Of an earlier window, or of none.
            return Step::Wait;
        }
        if more == 0 {
            // With a window of one block that is a duplicate, and answering it would double every later packet (RFC 1123
            // section 4.2.3.1). With a larger one the client misses the first block of it (RFC 7440 section 4).
            if self.window == 1 || self.sent == self.has || self.resumed == Some(self.has) {
                return Step::Wait;
            }
        }
        self.has += more;
        if self.has == self.last() {
            return Step::Done;
        }
        // Less than was sent: the client misses what comes next.
        if self.sent > self.has {
            self.sent = self.has;
            self.resumed = Some(self.has);
        }
        Step::Send
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_file_of_whole_blocks_ends_with_an_empty_one() {
        let mut sender = Sender::new(1024, 512, 1);
        for (number, offset, length) in [(1, 0, 512), (2, 512, 512), (3, 1024, 0)] {
            assert_eq!(sender.next_block(), Some(Block { number, offset, length }));
            assert_eq!(sender.next_block(), None, "one block between two acknowledgements");
            assert_eq!(sender.acknowledged(number - 1), Step::Wait, "a duplicate sends nothing twice");
            assert_eq!(sender.acknowledged(number), if number == 3 { Step::Done } else { Step::Send });
        }
        assert_eq!(Sender::new(0, 512, 1).next_block(), Some(Block { number: 1, offset: 0, length: 0 }));
    }

    #[test]
    fn a_window_goes_on_where_the_client_misses_something() {
        let mut sender = Sender::new(10_000, 1000, 4);
        assert_eq!(std::iter::from_fn(|| sender.next_block()).count(), 4);
        assert_eq!(sender.acknowledged(2), Step::Send);
        assert_eq!(sender.next_block().unwrap().number, 3);
        assert_eq!(std::iter::from_fn(|| sender.next_block()).count(), 3);
        // The first of the window is lost: said once, heard once.
        assert_eq!(sender.acknowledged(2), Step::Wait);
        sender.again();
        assert_eq!(std::iter::from_fn(|| sender.next_block()).next().unwrap().number, 3);
        assert_eq!(sender.acknowledged(9), Step::Wait, "it was never sent");
    }

    #[test]
    fn only_the_last_acknowledgement_may_be_lost() {
        let mut sender = Sender::new(2000, 1000, 1);
        assert_eq!(sender.next_block().unwrap().number, 1);
        assert!(!sender.lacks_the_last_word(), "it never answered");
        sender.acknowledged(1);
        assert_eq!(sender.next_block().unwrap().number, 2);
        assert!(!sender.lacks_the_last_word(), "there is one more");
        sender.acknowledged(2);
        assert_eq!(sender.next_block().unwrap().length, 0);
        assert!(sender.lacks_the_last_word());
        sender.again();
        assert!(!sender.lacks_the_last_word(), "it is not sent again yet");
    }

    #[test]
    fn a_large_file_counts_on_behind_the_65535th_block() {
        let size = 8 * 70_000 + 3;
        let mut sender = Sender::new(size, 8, 64);
        let (mut read, mut wraps) = (0, 0);
        loop {
            let mut number = None;
            while let Some(block) = sender.next_block() {
                assert_eq!(block.offset, read);
                read += block.length as u64;
                wraps += u32::from(block.number == 0);
                number = Some(block.number);
            }
            if sender.acknowledged(number.unwrap()) == Step::Done {
                break;
            }
        }
        assert_eq!((read, wraps, sender.arrived()), (size, 1, size));
    }

    proptest! {
        /// A client that loses packets, both ways, has the file in the end, and no other.
        #[test]
        fn what_is_lost_comes_again(
            size in 0u64..5000, block in 8u64..600, window in 1u64..9,
            losses in proptest::collection::vec(any::<bool>(), 1..400),
        ) {
            let mut sender = Sender::new(size, block, window);
            let mut losses = losses.into_iter().chain(std::iter::repeat(false));
            let (mut has, mut received) = (0u16, 0u64);
            for _ in 0..20_000 {
                let mut heard = None;
                let mut since = 0;
                while let Some(sent) = sender.next_block() {
                    if losses.next() == Some(true) {
                        continue;
                    }
                    if sent.number == has.wrapping_add(1) {
                        prop_assert_eq!(sent.offset, received);
                        has = sent.number;
                        received += sent.length as u64;
                        since += 1;
                    }
                    if sent.number == has || since > 0 {
                        heard = Some(has);
                    }
                }
                match heard {
                    Some(number) if losses.next() != Some(true) => {
                        if sender.acknowledged(number) == Step::Done {
                            prop_assert_eq!(received, size);
                            return Ok(());
                        }
                    }
                    _ => sender.again(),
                }
            }
            prop_assert!(false, "it never ends");
        }

        #[test]
        fn no_acknowledgement_leads_out_of_the_file(
            size in 0u64..5000, window in 1u64..9, numbers in proptest::collection::vec(any::<u16>(), 0..300),
        ) {
            let mut sender = Sender::new(size, 64, window);
            for number in numbers {
                while let Some(block) = sender.next_block() {
                    prop_assert!(block.offset + block.length as u64 <= size);
                }
                if sender.acknowledged(number % 100) == Step::Done {
                    break;
                }
            }
        }
    }
}
