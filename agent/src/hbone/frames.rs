//! Where HTTP/2's frames begin and end in a stream of bytes (RFC 9113 §4.1).

const HEADER: usize = 9;

/// Follows the bytes of one direction of a connection.
pub(super) struct Frames {
    /// Bytes of the present frame's header that are known.
    known: usize,
    /// Bytes of the present frame that follow its header, as far as they are known or still to come.
    rest: usize,
    /// The stream of the present frame, as far as it is known.
    stream: u32,
    /// Bytes that follow the present frame's header, and have arrived.
    arrived: usize,
}

impl Frames {
    /// Of a direction that begins with `preface` bytes that are no frames.
    pub fn after(preface: usize) -> Self {
        Self { known: HEADER, rest: preface, stream: 0, arrived: 0 }
    }

    /// Bytes of a frame that has begun and has not come to its end.
    pub fn arrived(&self) -> usize {
        if self.known == HEADER && self.rest > 0 { self.arrived } else { 0 }
    }

    /// Follows `bytes` to their end, or to the end of the frame after which `limit` frames have begun: how many bytes that are,
    /// and how many frames have begun. `on` is called with the stream of each.
    pub fn pass(&mut self, bytes: &[u8], limit: usize, mut on: impl FnMut(u32)) -> (usize, usize) {
        let (mut at, mut begun) = (0, 0);
        while at < bytes.len() {
            if self.known == HEADER {
                let step = self.rest.min(bytes.len() - at);
                at += step;
                self.rest -= step;
                self.arrived += step;
                if self.rest > 0 {
                    break;
                }
                if begun == limit {
                    break;
                }
                if at < bytes.len() {
                    (self.known, self.arrived) = (0, 0);
                    begun += 1;
                }
            } else {
                // The length comes first, in three bytes.
                if self.known < 3 {
                    self.rest = self.rest << 8 | usize::from(bytes[at]);
                }
                // The stream comes last, in four bytes.
                if self.known >= 5 {
                    self.stream = self.stream << 8 | u32::from(bytes[at]);
                }
                self.known += 1;
                at += 1;
                if self.known == HEADER {
                    on(self.stream);
                }
            }
        }
        (at, begun)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(length: u16) -> Vec<u8> {
        let [high, low] = length.to_be_bytes();
        let mut frame = vec![0, high, low, 9, 9, 0, 0, high, low];
        frame.resize(HEADER + usize::from(length), 7);
        frame
    }

    #[test]
    fn frames_are_counted_however_they_are_cut() {
        let lengths = [0, 1, 300, 0, 0, 70, 5000, 3];
        let bytes: Vec<u8> = b"pre".iter().copied().chain(lengths.into_iter().flat_map(frame)).collect();
        for size in 1..bytes.len() {
            let mut frames = Frames::after(3);
            let (mut begun, mut streams) = (0, vec![]);
            for piece in bytes.chunks(size) {
                let (passed, count) = frames.pass(piece, usize::MAX, |stream| streams.push(stream));
                assert_eq!(passed, piece.len());
                begun += count;
            }
            assert_eq!(begun, lengths.len(), "in pieces of {size}");
            assert_eq!(streams, lengths.map(u32::from), "in pieces of {size}");
        }
    }

    #[test]
    fn what_has_arrived_of_a_frame_is_known_until_it_ends() {
        let mut frames = Frames::after(0);
        let bytes = frame(5000);
        frames.pass(&bytes[..HEADER + 4999], usize::MAX, drop);
        assert_eq!(frames.arrived(), 4999);
        frames.pass(&bytes[HEADER + 4999..], usize::MAX, drop);
        assert_eq!(frames.arrived(), 0);
        frames.pass(&frame(10)[..HEADER + 3], usize::MAX, drop);
        assert_eq!(frames.arrived(), 3);
    }

    #[test]
    fn it_stops_behind_the_last_frame_that_may_begin() {
        let bytes: Vec<u8> = [4, 0, 100].into_iter().flat_map(frame).collect();
        let mut frames = Frames::after(0);
        assert_eq!(frames.pass(&bytes, 2, drop), (2 * HEADER + 4, 2));
        assert_eq!(frames.pass(&bytes[2 * HEADER + 4..][..20], 1, drop), (20, 1));
        assert_eq!(
            frames.pass(&bytes[2 * HEADER + 24..], 0, drop),
            (HEADER + 80, 0),
            "a frame that has begun comes to its end"
        );
    }
}
