//! What a server says of a prepared statement's parameters and columns, as one number to compare.
//!
//! Pure. Counts what a driver decodes by: names, types and their modifiers. Not which table a column comes from: one
//! that was made anew answers as the one before.

use super::settings::hash_of;

/// Of the body of a ParameterDescription.
pub fn parameters(body: &[u8]) -> u64 {
    hash_of(body)
}

/// Of the body of a RowDescription, or of NoData, which has none, behind its parameters.
pub fn columns(parameters: u64, body: &[u8]) -> u64 {
    let mut fields = Vec::new();
    let mut rest = body.get(2..).unwrap_or_default();
    while let Some(end) = rest.iter().position(|byte| *byte == 0) {
        // Table and number there, type, its size and modifier, format.
        let Some(field) = rest[end + 1..].first_chunk::<18>() else { break };
        fields.push((&rest[..end], &field[6..16]));
        rest = &rest[end + 19..];
    }
    hash_of((parameters, fields))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(fields: &[(&str, u32, u32)]) -> Vec<u8> {
        let mut body = (fields.len() as i16).to_be_bytes().to_vec();
        for (name, table, oid) in fields {
            body.extend_from_slice(name.as_bytes());
            body.push(0);
            body.extend(table.to_be_bytes());
            body.extend([0, 1]);
            body.extend(oid.to_be_bytes());
            body.extend([0, 4, 255, 255, 255, 255, 0, 0]);
        }
        body
    }

    #[test]
    fn a_description_is_another_by_names_types_and_number_of_columns_and_parameters() {
        let of = |fields: &[(&str, u32, u32)]| columns(7, &row(fields));
        let one = of(&[("a", 1, 23)]);
        assert_eq!(one, of(&[("a", 2, 23)]), "of a table that was made anew");
        for other in [&[("a", 1, 20)][..], &[("b", 1, 23)], &[("a", 1, 23), ("b", 1, 23)], &[]] {
            assert_ne!(one, of(other), "{other:?}");
        }
        assert_ne!(one, columns(8, &row(&[("a", 1, 23)])), "other parameters");
        assert_ne!(columns(7, &[]), columns(8, &[]));
        assert_ne!(of(&[("a", 1, 23), ("b", 1, 23)]), of(&[("b", 1, 23), ("a", 1, 23)]));
        assert_ne!(parameters(&[0, 1, 0, 0, 0, 23]), parameters(&[0, 1, 0, 0, 0, 20]));
    }
}
