//! Who is told of the bytes of a connection.

/// Counts bytes while they pass.
pub(super) trait Traffic {
    fn sent_by_app(&self, bytes: usize);
    fn sent_to_app(&self, bytes: usize);
}
