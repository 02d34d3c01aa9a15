//! How the server was started last, from `postmaster.opts`.
//!
//! A distribution that keeps the configuration outside of the data directory says where on the command line. Pure.

/// The arguments behind the program's name, less those that name the data directory: the agent knows which it is.
///
/// The format is that of `CreateOptsFile` in `src/backend/postmaster/postmaster.c`: each argument between quotes, which
/// are not escaped.
pub fn arguments(text: &str) -> Vec<String> {
    let Some((_, rest)) = text.trim_end().split_once(" \"") else { return Vec::new() };
    let rest = rest.strip_suffix('"').unwrap_or(rest);
    let mut kept = Vec::new();
    let mut all = rest.split("\" \"");
    while let Some(argument) = all.next() {
        if argument == "-D" {
            all.next();
        } else if !argument.starts_with("-D") {
            kept.push(argument.to_owned());
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_data_directory_is_left_out_and_the_rest_kept() {
        let debian = "/usr/lib/postgresql/15/bin/postgres \"-D\" \"/var/lib/postgresql/15/main\" \"-c\" \
            \"config_file=/etc/postgresql/15/my main/postgresql.conf\"\n";
        assert_eq!(arguments(debian), ["-c", "config_file=/etc/postgresql/15/my main/postgresql.conf"]);
        assert_eq!(arguments("/bin/postgres \"-D/data\" \"-p\" \"5433\"\n"), ["-p", "5433"]);
        assert_eq!(arguments("/bin/postgres\n"), [""; 0]);
        assert_eq!(arguments(""), [""; 0]);
    }
}
