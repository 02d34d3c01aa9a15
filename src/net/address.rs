//! `host:port`, taken apart. Pure.

/// `[::1]:7400` is the host `::1`.
pub fn split_address(address: &str) -> Option<(&str, u16)> {
    let (host, port) = address.rsplit_once(':')?;
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    Some((host, port.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_a_host_and_a_port() {
        assert_eq!(split_address("db-1.example:7400"), Some(("db-1.example", 7400)));
        assert_eq!(split_address("[fd00::1]:7400"), Some(("fd00::1", 7400)));
        assert_eq!(split_address("db-1"), None);
        assert_eq!(split_address("db-1:x"), None);
    }
}
