//! The roles whose passwords AWS gives: one source for each, and what it needs.
//!
//! Pure.

use super::super::document::{Document, Table};
use super::super::report::Findings;
use super::super::{Config, SslMode};

pub(super) fn check(document: &Document, config: &Config, findings: &mut Findings) {
    let tables = document.list("server_user");
    for (index, (table, user)) in tables.iter().zip(&config.server_users).enumerate() {
        let mut problem = |key: &str, problem: String, remedy: &str| {
            findings.problems.add(table.line(key), format!("server_user.{key}"), problem, remedy);
        };
        if config.server_users[..index].iter().any(|other| other.name == user.name) {
            problem("name", format!("\"{}\" is there already", user.name), "remove one of the two");
        }
        match (table.bool("iam_token"), table.has("secret_arn")) {
            (false, false) if !table.is_bad("secret_arn") && !table.is_bad("iam_token") => {
                let text = format!("nothing says where the password of \"{}\" comes from", user.name);
                problem("name", text, "set iam_token = true, or secret_arn");
            }
            (true, true) => {
                problem("secret_arn", "iam_token is set, too".to_owned(), "remove one of the two");
            }
            _ => {}
        }
        if table.bool("iam_token") && config.server_tls.mode != SslMode::VerifyFull {
            let text = "a token goes only to a server that has proved who it is".to_owned();
            problem("iam_token", text, "set server_tls.mode = \"verify-full\" and server_tls.ca_file");
        }
        if let Some(arn) = table.optional_text("secret_arn").filter(|arn| !is_secret(arn)) {
            let remedy = "write it as arn:aws:secretsmanager:REGION:ACCOUNT:secret:NAME";
            problem("secret_arn", format!("\"{arn}\" is no ARN of a secret"), remedy);
        }
        unused(table, findings);
    }
    own_passwords(document, config, findings);
}

fn is_secret(arn: &str) -> bool {
    let parts: Vec<_> = arn.split(':').collect();
    matches!(&parts[..], ["arn", _, "secretsmanager", region, account, "secret", ..]
        if !region.is_empty() && !account.is_empty())
        && !arn.contains(char::is_whitespace)
}

fn unused(table: &Table, findings: &mut Findings) {
    for (key, needs, is_set) in [
        ("region", "iam_token", table.bool("iam_token")),
        ("refresh_ms", "secret_arn", table.has("secret_arn")),
    ] {
        if table.has(key) && !is_set {
            let problem = format!("it is not used, since server_user.{needs} is not set");
            let about = format!("server_user.{key}");
            findings.warnings.add(table.line(key), about, problem, "set that, or remove it");
        }
    }
}

fn own_passwords(document: &Document, config: &Config, findings: &mut Findings) {
    let own = [
        ("health", &config.health.user, &config.health.password_file),
        ("failover", &config.failover.user, &config.failover.password_file),
    ];
    for (section, user, file) in own {
        if file.is_some() && config.server_users.iter().any(|known| known.name == *user) {
            let problem = format!("it is not used, since [[server_user]] has \"{user}\"");
            let line = document.table(section).line("password_file");
            let about = format!("{section}.password_file");
            findings.warnings.add(line, about, problem, "remove one of the two");
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::config::every_key::{SMALLEST, config};
    use crate::config::{ServerPassword, file};
    use std::path::Path;

    const ARN: &str = "arn:aws:secretsmanager:eu-central-1:123456789012:secret:app-AbCdEf";

    fn problems(text: &str) -> String {
        file::parse(&format!("{SMALLEST}{text}"), Path::new("/etc/komainu.toml"), 1)
            .err()
            .unwrap()
            .to_string()
    }

    #[test]
    fn a_role_has_one_source_of_its_password() {
        let of = |text: &str| config(&format!("{SMALLEST}{text}")).server_users[0].password.clone();
        let secret = of(&format!("[[server_user]]\nname = 'app'\nsecret_arn = '{ARN}'\n"));
        assert_eq!(secret, ServerPassword::Secret { arn: ARN.to_owned(), refresh_ms: 300_000 });
        let verified = "[server_tls]\nmode = 'verify-full'\nca_file = 'ca'\n";
        let token = of(&format!("{verified}[[server_user]]\nname = 'app'\niam_token = true\nregion = 'r'\n"));
        assert_eq!(token, ServerPassword::IamToken { region: Some("r".to_owned()) });
    }

    #[test]
    fn what_cannot_work_is_told() {
        for (text, problem) in [
            ("name = 'app'", "nothing says where the password of \"app\" comes from"),
            ("name = 'app'\niam_token = true", "a token goes only to a server that has proved who it is"),
            ("name = 'app'\nsecret_arn = 'app'", "\"app\" is no ARN of a secret"),
            ("name = 'app'\nsecret_arn = 'arn:aws:rds:r:1:db:x'", "is no ARN of a secret"),
            (&format!("name = 'app'\niam_token = true\nsecret_arn = '{ARN}'"), "iam_token is set, too"),
            (
                &format!(
                    "name = 'a'\nsecret_arn = '{ARN}'\n[[server_user]]\nname = 'a'\nsecret_arn = '{ARN}'"
                ),
                "\"a\" is there already",
            ),
        ] {
            let found = problems(&format!("[[server_user]]\n{text}\n"));
            assert!(found.contains(problem), "{text}: {found}");
        }
    }
}
