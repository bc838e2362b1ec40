//! Reading a recording back, frame by frame.

use std::collections::VecDeque;
use std::io::Read;

use super::format::{Broken, Decoder};
use super::frame::{Header, Stamped};

/// How much is read at once, in bytes.
const PIECE: u64 = 128 << 10;

/// An iterator over the frames of a recording; it checks the chain on its way. A last chunk that is torn is not there.
#[derive(Debug)]
pub struct Reader<R> {
    from: R,
    decoder: Decoder,
    frames: VecDeque<Stamped>,
    over: bool,
    broken: Option<Broken>,
}

impl<R: Read> Reader<R> {
    /// Reads from the beginning of a file.
    pub fn new(from: R) -> Self {
        Self { from, decoder: Decoder::default(), frames: VecDeque::new(), over: false, broken: None }
    }

    /// As [`Reader::new`], but it believes the chain.
    pub(super) fn unchecked(from: R) -> Self {
        Self { decoder: Decoder::unchecked(), ..Self::new(from) }
    }

    /// From now on what streams carry is passed over.
    pub(super) fn skim(&mut self) {
        self.decoder.skim();
    }

    /// Whose recording it is.
    ///
    /// # Errors
    /// When it does not begin like one.
    pub fn header(&mut self) -> Result<Header, Broken> {
        while self.decoder.header().is_none() && !self.over {
            self.more()?;
        }
        self.decoder.header().cloned().ok_or(Broken { chunk: 0, what: "its header is not whole".to_owned() })
    }

    /// Reads the next piece of the file.
    fn more(&mut self) -> Result<(), Broken> {
        let n = self.decoder.pull(&mut self.from, PIECE).map_err(|e| {
            self.over = true;
            Broken { chunk: self.decoder.whole().1 + 1, what: e.to_string() }
        })?;
        self.over = n == 0;
        loop {
            match self.decoder.chunk() {
                Ok(Some(frames)) => self.frames.extend(frames),
                Ok(None) => return Ok(()),
                Err(broken) => {
                    self.over = true;
                    return Err(broken);
                }
            }
        }
    }
}

impl<R: Read> Iterator for Reader<R> {
    type Item = Result<Stamped, Broken>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(frame) = self.frames.pop_front() {
                return Some(Ok(frame));
            }
            if self.over {
                return self.broken.take().map(Err);
            }
            // What was whole before it is given out first.
            self.broken = self.more().err();
        }
    }
}
