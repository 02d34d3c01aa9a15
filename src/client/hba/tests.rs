//! Tables for the rules of PostgreSQL, and properties of reading and printing.

use proptest::prelude::*;

use super::*;

fn find(text: &str, connection: Connection<'_>) -> Option<usize> {
    Hba::parse(text).unwrap().find(&connection).map(|rule| rule.line)
}

fn tls(address: &str) -> Connection<'static> {
    let address = Some(address.parse().unwrap());
    Connection { transport: Transport::Tls, address, database: "shop", user: "alice", replication: false }
}

fn plain(address: &str) -> Connection<'static> {
    Connection { transport: Transport::Plain, ..tls(address) }
}

fn local() -> Connection<'static> {
    Connection { transport: Transport::Local, address: None, ..tls("10.0.0.1") }
}

#[test]
fn the_transport_decides_which_kinds_of_line_match() {
    let lines = [
        "local all all trust",
        "host all all all trust",
        "hostssl all all all trust",
        "hostnossl all all all trust",
    ];
    let matches = |connection| lines.map(|line| find(line, connection).is_some());
    assert_eq!(matches(local()), [true, false, false, false]);
    assert_eq!(matches(tls("10.0.0.1")), [false, true, true, false]);
    assert_eq!(matches(plain("10.0.0.1")), [false, true, false, true]);
}

#[test]
fn addresses_match_by_network() {
    for (address, client, expected) in [
        ("10.0.0.0/8", "10.255.0.1", true),
        ("10.0.0.0/8", "11.0.0.1", false),
        // Bits beyond the prefix are ignored, as in PostgreSQL.
        ("10.1.2.3/8", "10.255.0.1", true),
        ("10.0.0.1 255.255.255.0", "10.0.0.200", true),
        ("10.0.0.1 255.255.255.0", "10.0.1.1", false),
        ("10.0.0.1/32", "10.0.0.1", true),
        ("10.0.0.1/32", "10.0.0.2", false),
        ("0.0.0.0/0", "203.0.113.1", true),
        ("0.0.0.0/0", "2001:db8::1", false),
        ("::/0", "2001:db8::1", true),
        ("::/0", "203.0.113.1", false),
        ("fd00::1 ffff:ffff::", "fd00:0:1::", true),
        ("all", "2001:db8::1", true),
        // An IPv6 socket shows IPv4 clients so.
        ("10.0.0.0/8", "::ffff:10.0.0.1", true),
        ("10.0.0.0/8", "::ffff:11.0.0.1", false),
        ("::ffff:10.0.0.0/104", "10.0.0.1", true),
    ] {
        let line = format!("host all all {address} md5");
        assert_eq!(find(&line, plain(client)).is_some(), expected, "{address} {client}");
    }
}

#[test]
fn names_match_exactly_and_keywords_only_unquoted() {
    for (database, user, expected) in [
        ("all", "all", true),
        ("shop", "alice", true),
        ("Shop", "alice", false),
        ("shop", "Alice", false),
        ("other,shop", "bob, alice", true),
        ("other", "alice", false),
        ("\"all\"", "all", false),
        ("all", "\"all\"", false),
        ("sameuser", "all", false),
        ("replication", "all", false),
        ("sh\"o\"p", "\"alice\"", true),
        ("\"shop\",\"a,b c#\"\"d\"", "all", true),
    ] {
        assert_eq!(
            find(&format!("local {database} {user} trust"), local()).is_some(),
            expected,
            "{database} {user}"
        );
    }
    let connection = Connection { database: "alice", ..local() };
    assert!(find("local sameuser all trust", connection).is_some());
    assert!(find("local \"sameuser\" all trust", connection).is_none());
    let connection = Connection { database: "all", user: "all", ..local() };
    assert!(find("local \"all\" \"all\" trust", connection).is_some());
    let connection = Connection { database: "a,b c#\"d", ..local() };
    assert!(find("local \"a,b c#\"\"d\" all trust # why", connection).is_some());
}

#[test]
fn replication_meets_only_replication_lines() {
    let connection = Connection { replication: true, ..local() };
    assert!(find("local replication all trust", connection).is_some());
    for database in ["all", "shop", "sameuser", "\"replication\""] {
        assert!(find(&format!("local {database} all trust"), connection).is_none(), "{database}");
    }
    let connection = Connection { database: "replication", ..local() };
    assert!(find("local replication all trust", connection).is_none());
    assert!(find("local \"replication\" all trust", connection).is_some());
}

#[test]
fn the_first_match_wins_and_none_is_a_refusal() {
    let text =
        "host all bob all reject\nhost all alice 10.0.0.0/8 reject\n\nhost all all all scram-sha-256\n";
    let hba = Hba::parse(text).unwrap();
    assert_eq!(hba.find(&plain("10.0.0.1")).unwrap().method, Method::Reject);
    assert_eq!(hba.find(&plain("10.0.0.1")).unwrap().line, 2);
    assert_eq!(hba.find(&plain("192.0.2.1")).unwrap().line, 4);
    assert_eq!(hba.find(&local()), None);
}

#[test]
fn lines_go_on_after_a_backslash_in_comments_and_quotes_too() {
    let text =
        "# a comment \\\nlocal all all trust\nlocal \\\n all all \\\n md5\nlocal \"sh\\\nop\" all password\n";
    let rules = Hba::parse(text).unwrap().rules;
    let read: Vec<_> = rules.iter().map(|rule| (rule.line, rule.method)).collect();
    assert_eq!(read, [(3, Method::Md5), (6, Method::Password)]);
    assert_eq!(rules[1].databases, [DatabaseMatch::Name("shop".into())]);
}

#[test]
fn a_byte_order_mark_and_carriage_returns_are_no_part_of_words() {
    assert_eq!(find("\u{feff}local all all trust\r\n", local()), Some(1));
}

#[test]
fn certificates_are_asked_for_as_written() {
    for (line, expected) in [
        ("hostssl all all all cert", ClientCert::VerifyFull),
        ("hostssl all all all cert clientcert=verify-full", ClientCert::VerifyFull),
        ("hostssl all all all scram-sha-256 clientcert=verify-ca", ClientCert::VerifyCa),
        ("hostssl all all all trust clientcert=verify-full", ClientCert::VerifyFull),
        ("hostssl all all all scram-sha-256", ClientCert::NotAsked),
    ] {
        assert_eq!(Hba::parse(line).unwrap().rules[0].client_cert, expected, "{line}");
    }
}

#[test]
fn what_cannot_be_honoured_is_refused_by_its_column() {
    for (line, field, says) in [
        ("hots all all all md5", "type", "no connection type"),
        ("hostgssenc all all all md5", "type", "not supported"),
        ("include other.conf", "type", "not supported"),
        ("local,host all all trust", "type", "a list is not allowed"),
        ("local", "database", "ends before"),
        ("local all", "user", "ends before"),
        ("local all all", "method", "ends before"),
        ("host all all", "address", "ends before"),
        ("host all all 10.0.0.0/8", "method", "ends before"),
        ("local samerole all trust", "database", "not supported"),
        ("local @dbs all trust", "database", "not supported"),
        ("local /^x all trust", "database", "not supported"),
        ("local all +admins trust", "user", "only the servers know"),
        ("local all @users trust", "user", "not supported"),
        ("local all /^x trust", "user", "not supported"),
        ("local \"\" all trust", "database", "empty"),
        ("host all all 10.0.0.1 md5", "address", "neither a prefix length nor a mask"),
        ("host all all 10.0.0.1 255.0.255.0 md5", "address", "no mask"),
        ("host all all 10.0.0.1 ffff:: md5", "address", "no mask"),
        ("host all all 10.0.0.1/33 md5", "address", "no network"),
        ("host all all db.example.com md5", "address", "host names are not supported"),
        ("host all all samenet md5", "address", "not supported"),
        ("local all all peer", "method", "not supported"),
        ("local all all scram", "method", "no authentication method"),
        ("host all all all password", "method", "in clear"),
        ("hostnossl all all all password", "method", "in clear"),
        ("host all all all cert", "method", "TLS"),
        ("local all all cert", "method", "TLS"),
        ("hostssl all all all cert map=x", "option", "not supported"),
        ("hostssl all all all md5 clientcert=yes", "option", "cannot be"),
        ("hostssl all all all cert clientcert=verify-ca", "option", "always compares"),
        ("host all all all md5 clientcert=verify-ca", "option", "cannot ask"),
        ("local all all md5 extra", "option", "no option"),
        ("local \"all all trust", "line", "never closed"),
        ("local all\0 all trust", "line", "zero byte"),
    ] {
        let errors = Hba::parse(line).unwrap_err();
        assert_eq!(errors.len(), 1, "{line}: {errors:?}");
        assert_eq!((errors[0].line, errors[0].field), (1, field), "{line}: {}", errors[0]);
        assert!(errors[0].problem.contains(says), "{line}: {}", errors[0]);
    }
}

#[test]
fn a_quoted_word_is_a_name_even_where_its_first_letter_means_something() {
    let rule = &Hba::parse("local \"@db\" \"+role\",\"/x\" trust").unwrap().rules[0];
    assert_eq!(rule.databases, [DatabaseMatch::Name("@db".into())]);
    assert_eq!(rule.users, [UserMatch::Name("+role".into()), UserMatch::Name("/x".into())]);
}

#[test]
fn every_problem_is_reported_not_only_the_first() {
    let text = "local all all peer\nlocal all all trust\nhost samerole +x host.example password\nlocal\n";
    let errors = Hba::parse(text).unwrap_err();
    let found: Vec<_> = errors.iter().map(|error| (error.line, error.field)).collect();
    assert_eq!(
        found,
        [(1, "method"), (3, "database"), (3, "user"), (3, "address"), (3, "method"), (4, "database")]
    );
}

fn name() -> impl Strategy<Value = String> {
    prop_oneof![Just("all".to_owned()), Just("replication".to_owned()), "[^\0\n]{1,8}"]
}

fn rule() -> impl Strategy<Value = Rule> {
    let database = prop_oneof![
        Just(DatabaseMatch::All),
        Just(DatabaseMatch::SameUser),
        Just(DatabaseMatch::Replication),
        name().prop_map(DatabaseMatch::Name)
    ];
    let user = prop_oneof![Just(UserMatch::All), name().prop_map(UserMatch::Name)];
    let address = prop_oneof![
        Just(AddressMatch::All),
        (any::<std::net::Ipv4Addr>(), 0..=32u8)
            .prop_map(|(a, p)| AddressMatch::Net(ipnet::Ipv4Net::new(a, p).unwrap().into())),
        (
            any::<std::net::Ipv6Addr>().prop_filter("IPv4 in IPv6", |a| a.to_ipv4_mapped().is_none()),
            0..=128u8
        )
            .prop_map(|(a, p)| AddressMatch::Net(ipnet::Ipv6Net::new(a, p).unwrap().into())),
    ];
    let login = (0..6usize, 0..3usize).prop_map(|(method, cert)| {
        let cert = [ClientCert::NotAsked, ClientCert::VerifyCa, ClientCert::VerifyFull][cert];
        (Method::ALL[method], cert)
    });
    let lists = (prop::collection::vec(database, 1..4), prop::collection::vec(user, 1..4));
    (0..4u8, address, lists, login).prop_map(|(kind, address, (databases, users), (method, cert))| {
        let scope = match kind {
            0 => Scope::Local,
            1 => Scope::Host(address),
            2 => Scope::HostSsl(address),
            _ => Scope::HostNoSsl(address),
        };
        let method = match (method, scope) {
            (Method::Cert, Scope::HostSsl(_)) | (Method::Password, Scope::HostSsl(_) | Scope::Local) => {
                method
            }
            (Method::Cert | Method::Password, _) => Method::ScramSha256,
            _ => method,
        };
        let client_cert = match (method, scope) {
            (Method::Cert, _) => ClientCert::VerifyFull,
            (_, Scope::HostSsl(_)) => cert,
            _ => ClientCert::NotAsked,
        };
        Rule { line: 0, scope, databases, users, method, client_cert }
    })
}

proptest! {
    #![proptest_config(crate::properties::properties())]

    #[test]
    fn what_is_printed_is_read_back(mut rules in prop::collection::vec(rule(), 0..6)) {
        for (index, rule) in rules.iter_mut().enumerate() {
            rule.line = index + 1;
        }
        let hba = Hba { rules };
        prop_assert_eq!(Hba::parse(&hba.to_string()), Ok(hba));
    }

    #[test]
    fn never_panics(text in "(?s).{0,200}") {
        let _ = Hba::parse(&text);
    }

    #[test]
    fn never_panics_on_near_misses(text in r#"((local|host|hostssl) ?[a-z,"+@/\\]{0,6} ?all ?[0-9a-f:./]{0,12} ?(md5|cert|x) ?[a-z=-]{0,20}\n){0,4}"#) {
        let _ = Hba::parse(&text);
    }
}
