//! How the API server writes what is empty.

use serde::{Deserialize, Deserializer};

/// Reads `null` as the default; the API server writes it for empty lists, maps and objects.
pub fn null_as_default<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(
    d: D,
) -> Result<T, D::Error> {
    Ok(Option::deserialize(d)?.unwrap_or_default())
}
