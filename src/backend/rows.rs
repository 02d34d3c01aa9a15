//! A small result, held whole: the text values of rows, by position.
//!
//! Pure. Owns decoding of RowDescription and DataRow from a server that is not trusted. Invariant:
//! every row has as many values as there are columns, so positions are checked once.

use bytes::Bytes;

/// The rows of one result.
#[derive(Debug, Default)]
pub struct Rows {
    columns: Vec<String>,
    bodies: Vec<Bytes>,
    /// Row by row: where in its body a value is; `None`: NULL.
    values: Vec<Option<(u32, u32)>>,
    bytes: usize,
}

/// What a row costs beside its body.
const ROW_OVERHEAD_BYTES: usize = 64;
const VALUE_OVERHEAD_BYTES: usize = 16;

impl Rows {
    pub fn len(&self) -> usize {
        self.bodies.len()
    }

    pub fn is_empty(&self) -> bool {
        self.bodies.is_empty()
    }

    pub fn columns(&self) -> &[String] {
        &self.columns
    }

    /// `None`: NULL, or there is no such row or column.
    pub fn value(&self, row: usize, column: usize) -> Option<&[u8]> {
        if column >= self.columns.len() {
            return None;
        }
        let (start, end) = (*self.values.get(row * self.columns.len() + column)?)?;
        self.bodies.get(row)?.get(start as usize..end as usize)
    }

    /// As `value`; `None` also for what is not UTF-8, which `client_encoding` UTF8 rules out.
    pub fn text(&self, row: usize, column: usize) -> Option<&str> {
        std::str::from_utf8(self.value(row, column)?).ok()
    }

    /// Memory that the rows take, about.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// No rows yet, with the columns of a RowDescription. `None`: malformed.
    pub(super) fn described(body: &[u8]) -> Option<Self> {
        /// Table, attribute, type, size, modifier and format of a column.
        const AFTER_NAME: usize = 18;
        let (count, mut rest) = split_u16(body)?;
        let mut columns = Vec::new();
        for _ in 0..count {
            let (name, after) = crate::wire::frame::split_cstr(rest)?;
            columns.push(String::from_utf8_lossy(name).into_owned());
            rest = after.get(AFTER_NAME..)?;
        }
        Some(Rows { columns, ..Rows::default() })
    }

    /// Adds a DataRow. `None`: malformed, or not of the columns described.
    pub(super) fn push(&mut self, body: Bytes) -> Option<()> {
        let (count, mut rest) = split_u16(&body)?;
        if usize::from(count) != self.columns.len() {
            return None;
        }
        for _ in 0..count {
            let (length, after) = rest.split_first_chunk::<4>()?;
            rest = after;
            self.values.push(match i32::from_be_bytes(*length) {
                -1 => None,
                length => {
                    let length = usize::try_from(length).ok()?;
                    let start = body.len() - rest.len();
                    rest = rest.get(length..)?;
                    Some((start as u32, (start + length) as u32))
                }
            });
        }
        self.bytes += body.len() + ROW_OVERHEAD_BYTES + VALUE_OVERHEAD_BYTES * usize::from(count);
        self.bodies.push(body);
        Some(())
    }
}

fn split_u16(body: &[u8]) -> Option<(u16, &[u8])> {
    let (count, rest) = body.split_first_chunk::<2>()?;
    Some((u16::from_be_bytes(*count), rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn two_columns() -> Rows {
        let mut body = vec![0, 2];
        for name in ["a", "b"] {
            body.extend_from_slice(name.as_bytes());
            body.push(0);
            body.extend_from_slice(&[0; 18]);
        }
        Rows::described(&body).unwrap()
    }

    #[test]
    fn values_are_found_by_row_and_column() {
        let mut rows = two_columns();
        rows.push(Bytes::from_static(b"\0\x02\0\0\0\x01x\xff\xff\xff\xff")).unwrap();
        rows.push(Bytes::from_static(b"\0\x02\0\0\0\0\0\0\0\x02yz")).unwrap();
        assert_eq!(rows.columns(), ["a", "b"]);
        assert_eq!(rows.len(), 2);
        assert_eq!(rows.text(0, 0), Some("x"));
        assert_eq!(rows.text(0, 1), None);
        assert_eq!(rows.text(1, 0), Some(""));
        assert_eq!(rows.text(1, 1), Some("yz"));
        assert_eq!(rows.text(0, 2), None);
        assert_eq!(rows.text(2, 0), None);
    }

    #[test]
    fn rows_that_lie_are_refused() {
        for lie in [
            &b""[..],
            b"\0",
            b"\0\x01\0\0\0\x01x",
            b"\0\x03\0\0\0\x01x",
            b"\0\x02\0\0\0\x01x",
            b"\0\x02\0\0\0\x01x\0\0\0\x05y",
            b"\0\x02\0\0\0\x01x\x7f\xff\xff\xffy",
            b"\0\x02\0\0\0\x01x\xff\xff\xff\xfey",
        ] {
            assert!(two_columns().push(Bytes::copy_from_slice(lie)).is_none(), "{lie:?}");
        }
        assert!(Rows::described(b"\0\x02a\0").is_none());
        assert!(Rows::described(b"\xff\xff").is_none());
    }
}
