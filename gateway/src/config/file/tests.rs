//! Files, and what is said of them.

use std::time::Duration;

use super::*;
use crate::config::{Check, Sticky};
use crate::route::limits::RateBy;

/// The settings of a file in the folder `/etc`, or the lines about it, without its name.
pub(crate) fn parsed(text: &str) -> Result<Settings, Vec<String>> {
    let (settings, mistakes) = parse(Path::new("/etc/g.toml"), text, |_| Vec::new());
    let short = |line: String| line.strip_prefix("/etc/g.toml:").map(str::to_owned).unwrap_or(line);
    if mistakes.is_empty() { Ok(settings) } else { Err(mistakes.into_iter().map(short).collect()) }
}

/// All that is wrong with a file: how each of the lines begins.
#[track_caller]
fn check(text: &str, expected: &[&str]) {
    let seen = parsed(text).err().unwrap_or_default();
    let is_same = seen.len() == expected.len() && seen.iter().zip(expected).all(|(seen, line)| seen.starts_with(line));
    assert!(is_same, "{text}\n  gives {seen:#?}\n  and not {expected:#?}");
}

/// What has no effect in a file.
#[track_caller]
fn check_warnings(text: &str, expected: &[&str]) {
    let settings = parsed(text).unwrap();
    let seen: Vec<_> = settings.warnings.iter().map(|line| line.trim_start_matches("/etc/g.toml:")).collect();
    assert_eq!(seen, expected, "\n{text}\n");
}

#[test]
fn a_file_may_set_any_setting() {
    let settings = parsed(
        r#"
        listen = "0.0.0.0:80"
        request_timeout = "250ms"
        empty_404 = true
        redirect = true
        trusted = ["10.0.0.0/8", "::1"]
        max_connections = 1_000
        max_body_bytes = 0x100000
        cache = "state/nodes"
        [tls]
        listen = "0.0.0.0:443"
        certificates = [{ chain = "a.pem", key = "/keys/b.pem" }]
        [[route]]
        prefix = "/old"
        nodes = false
        servers = ["127.0.0.1:8080", { address = "[::1]:8080", weight = 50 }]
        strip = true
        balance = "cookie"
        check = "/health"
        rate = { requests = 5, by = "header:X-Key" }
        [[route]]
        prefix = ["/a", "/b"]
        timeout = "1m"
        at_most = 7
        any_body = true
        params = { data = "arguments", authorization = "header:Authorization" }
        check = "GET/health"
        "#,
    )
    .unwrap();
    let config = &settings.config;
    assert_eq!((settings.process.listen.port(), config.empty_404, settings.process.workers), (80, true, None));
    assert_eq!((config.request_timeout, config.max_connections), (Duration::from_millis(250), 1000));
    assert_eq!(config.cache.as_deref(), Some(Path::new("/etc/state/nodes")));
    assert_eq!((settings.tls.unwrap().port(), config.redirect, config.trusted.len()), (443, Some(443), 2));
    let [files] = &config.certificates[..] else { panic!("one") };
    assert_eq!((files.chain.to_str(), files.key.to_str()), (Some("/etc/a.pem"), Some("/keys/b.pem")), "c12");
    let [old, both] = &config.routes[..] else { panic!("two") };
    assert_eq!([100, 50], [old.servers[0].weight, old.servers[1].weight]);
    assert_eq!(
        (old.strip, old.sticky, &old.check),
        (true, Some(Sticky::Cookie), &Some(Check::Http("/health".to_owned())))
    );
    let rate = old.limits.rate.clone().unwrap();
    assert_eq!((rate.requests, rate.burst, rate.by), (5, 5, RateBy::Header("x-key".to_owned())));
    assert_eq!(both.prefixes, ["/a", "/b"]);
    assert_eq!((old.nodes, both.nodes, old.any_body, both.any_body), (false, true, false, true));
    assert_eq!(both.params.as_ref().map(|params| params.members.len()), Some(2));
    assert_eq!((both.timeout, both.limits.max_concurrency), (Some(Duration::from_secs(60)), Some(7)));
    assert_eq!((&both.check, both.node_check.as_deref()), (&None, Some("GET/health")));
}

#[test]
fn oe16_a12_an_empty_file_is_refused() {
    let file = std::env::temp_dir().join(format!("gateway-nothing-{}.toml", std::process::id()));
    for (text, expected) in [
        ("", false),
        ("\n \t\n", false),
        ("# listen = \"127.0.0.1:1\"\n", false),
        ("\u{feff}", false),
        ("workers = 1", true),
        ("# a\n[[route]]\nprefix = \"/\"", true),
    ] {
        std::fs::write(&file, text).unwrap();
        assert_eq!(read_settings(Some(&file), |_| Vec::new()).is_ok(), expected, "{text:?}");
    }
    std::fs::remove_file(file).unwrap();
}

#[test]
fn oe18_a_slip_is_told_in_the_words_of_the_setting() {
    check("lisen = \"a\"", &["1:1: unknown key `lisen`; did you mean `listen`?"]);
    check(
        "workers = 1\n  request_timout = \"1s\"",
        &["2:3: unknown key `request_timout`; did you mean `request_timeout`?"],
    );
    check("listen = 127.0.0.1:80", &["1:10: listen: write it in quotes: \"127.0.0.1:80\""]);
    check("listen = [::1]:80", &["1:10: listen: write it in quotes: \"[::1]:80\""]);
    check("idle_timeout = 10s # short", &["1:16: idle_timeout: write it in quotes: \"10s\""]);
    check("idle_timeout = 10", &["1:16: idle_timeout = 10: write it in quotes, such as \"1m\""]);
    check(
        "idle_timeout = \"soon\"",
        &["1:16: idle_timeout = \"soon\": write a time with its unit, such as 10s or 250ms"],
    );
    check("idle_timeout = \"0s\"", &["1:16: idle_timeout = \"0s\": write a time of at least 1ms"]);
    check("workers = -1", &["1:11: workers = -1: write a whole number from 1 to 1024"]);
    check("workers = 2000", &["1:11: workers = 2000: write a whole number from 1 to 1024"]);
    check("workers = \"4\"", &["1:11: workers = \"4\": write a whole number without quotes, such as 4"]);
    check("workers = 1.5", &["1:11: workers = 1.5: write a whole number without quotes, such as 4"]);
    check("max_connections = 0", &["1:19: max_connections = 0: write a whole number of at least 1"]);
    check("h2c = \"yes\"", &["1:7: h2c = \"yes\": write true or false, without quotes"]);
    check("access_log = \"xml\"", &["1:14: access_log = \"xml\": write off or text or json"]);
    check("access_log = true", &["1:14: access_log = true: write \"off\" or \"text\" or \"json\""]);
    check(
        "distributor = \"nowhere\"",
        &["1:15: distributor = \"nowhere\": it has no port; write it like 10.0.0.1:9000"],
    );
    check("trusted = [\"::1\", \"x\"]", &["1:19: trusted = \"x\": write a network such as 10.0.0.0/8, or an address"]);
    check("trusted = [1]", &["1:12: trusted = 1: write it in quotes, such as \"10.0.0.0/8\""]);
    check(
        "old_nodes_public = 1",
        &["1:20: old_nodes_public = 1: write true, false, or a list such as [\"GET/goods\"]"],
    );
    check(
        "old_nodes_public = \"false\"",
        &["1:20: old_nodes_public = \"false\": write true, false, or a list such as [\"GET/goods\"]"],
    );
    check(
        "old_nodes_public = [\"GET/a\", \"a\"]",
        &["1:30: old_nodes_public = \"a\": write a route such as GET/goods"],
    );
    check("trusted = 1", &["1:11: trusted = 1: write a list such as [\"10.0.0.0/8\"]"]);
    check(
        "cookie_secret = \"fifteen letters\"",
        &["1:17: cookie_secret: write at least 16 characters: openssl rand -hex 32"],
    );
    check("cache = \"\"", &["1:9: cache = \"\": write the path of a file"]);
    check("log_level = \"debug\"", &["1:1: unknown key `log_level`; the file has"]);
    check("listen = \"nowhere\"", &["1:10: listen = \"nowhere\": "]);
}

#[test]
fn oe18_a_text_that_is_not_toml_is_told_in_words() {
    check("listen = ", &["1:10: `listen` has no value"]);
    check("listen", &["1:7: `listen` has no value: write `listen = …`"]);
    check("listen: \"a\"", &["1:7: write `=` between a name and its value, and not `:`"]);
    check("listen == \"a\"", &["1:9: there is one `=` too many"]);
    check("listen = \"127.0.0.1:1", &["1:22: the quote at the end of a text is missing"]);
    check("listen = \"127.0.0.1:1\" workers = 1", &["1:24: nothing can stand behind a value but a comment"]);
    check("listen = \u{201c}127.0.0.1:1\u{201d}", &["1:10: listen: write it in quotes: \"127.0.0.1:1\""]);
    check("max_body_bytes = 1MB", &["1:18: max_body_bytes: write a whole number without quotes, such as 1048576"]);
    check("max_body_bytes = 1,000", &["1:18: max_body_bytes: write a whole number without quotes, such as 1048576"]);
    check("h2c = True", &["1:7: h2c: write true or false, without quotes"]);
    check("idle_timeout = 1m 30s", &["1:16: idle_timeout: write it in quotes: \"1m 30s\""]);
    check("trusted = [10.0.0.0/8, \"::1\"]", &["1:12: trusted: write it in quotes: \"10.0.0.0/8\""]);
    check("trusted = 10.0.0.0/8", &["1:11: trusted: write a list in quotes: [\"10.0.0.0/8\"]"]);
    check(
        "trusted = [\"10.0.0.1\", \"10.0.0.2\"\nworkers = 1",
        &["2:1: a comma is missing before this, or a bracket above it"],
    );
    check(
        "listen = \"127.0.0.1:1\"\nlisten = \"127.0.0.1:1\"",
        &["2:1: `listen` is there twice; the first is in line 1"],
    );
    check(
        "[[route]]\nprefix = \"/a\"\n[[route]]\nprefix = \"/\"\nprefix = \"/b\"",
        &["5:1: `prefix` is there twice; the first is in line 4"],
    );
    let tls = "[tls]\nlisten = \"127.0.0.1:1\"\ncertificates = [{ chain = \"a\", key = \"b\" }]\n";
    check(&format!("{tls}[tls]"), &["4:2: `[tls]` is there twice; the first is in line 1"]);
    check(
        "[[route]]\nprefix = \"/\"\nservers = [10.0.0.1:80]",
        &["3:12: servers: write it in quotes: \"10.0.0.1:80\""],
    );
    check(
        "[[route]]\nprefix = \"/\"\nservers = [\n  10.0.0.1:80,\n  \"10.0.0.2:80\",\n]",
        &["4:3: servers: write it in quotes: \"10.0.0.1:80\""],
    );
    check(
        "[[route]]\nprefix = \"/\"\nrate = { requests = 5, every = 1s }",
        &["3:32: every: write it in quotes: \"1s\""],
    );
    check("[[route]\nprefix = \"/\"", &["1:9: a bracket is missing: write [tls] or [[route]]"]);
}

#[test]
fn allow_and_deny_list_requests_below_the_prefix() {
    let route = |keys: &str| format!("[[route]]\nprefix = \"/a\"\n{keys}");
    check(&route("deny = [\"DELETE\", \"GET/a\", \"POST/a/{x}\"]\nallow = []"), &[]);
    check(&route("deny = [\"delete\"]"), &["3:9: deny = \"delete\": write a method such as DELETE"]);
    check(
        &route("allow = [\"GET\", \"10.0.0.0/8\"]"),
        &["3:17: allow = \"10.0.0.0/8\": the list has methods and routes"],
    );
    check(&route("allow = [\"GET/ab\"]"), &["3:9: allow: `/ab` is not below the prefix of this [[route]]"]);
    let two = |keys: &str| format!("[[route]]\nprefix = \"/\"\n{keys}\n[[route]]\nprefix = [\"/a\", \"/b\"]\n");
    check(&two("deny = [\"GET/a\", \"GET/ab\"]"), &["3:8: deny: the lists of prefix `/a`, in line 5, count for `/a`"]);
    check(&two("allow = [\"GET/x\", \"GET/b/{x}\"]"), &["3:9: allow: the lists of prefix `/b`, in line 5, count for "]);
    check(&(two("") + "deny = [\"GET/a/x\"]"), &[]);
}

#[test]
fn oe18_slips_in_tables_have_their_own_places() {
    check("[[route]]\nstrip = true", &["1:1: this [[route]] has no `prefix`, such as prefix = \"/\" for all"]);
    check("[route]\nprefix = \"/\"", &["1:1: route: write [[route]] with two brackets"]);
    check("[[tls]]\nlisten = \"127.0.0.1:1\"", &["1:1: tls: write [tls] with one bracket"]);
    check("prefix = \"/\"", &["1:1: `prefix` is not a key of the file; it belongs below [[route]]"]);
    check(
        "[[route]]\nprefix = \"/\"\nidle_timeout = \"1s\"",
        &["3:1: `idle_timeout` is not a key of [[route]]; it belongs above the first line with a bracket"],
    );
    check("[[route]]\nprefix = []", &["2:10: prefix: write a path such as \"/\", which is all, or a list of paths"]);
    check("[[route]]\nprefix = \"/..\"", &["2:10: prefix `/..`: "]);
    check("[[route]]\nprfix = \"/a\"\nprefix = \"/a\"", &["2:1: unknown key `prfix`; did you mean `prefix`?"]);
    check(
        "[[route]]\nprefix = [\"/a\", \"/a/\"]\n[[route]]\nprefix = \"/a\"",
        &["2:10: prefix `/a/` has a route already, in line 2", "4:10: prefix `/a` has a route already, in line 2"],
    );
    let route = |more: &str| format!("[[route]]\nprefix = \"/\"\n{more}");
    check(&route("servers = [\"a\"]"), &["3:12: server `a`: "]);
    check(&route("servers = [1]"), &["3:12: servers: write a list such as "]);
    check(&route("servers = []"), &["3:11: servers: the list is empty; leave it out for servers that register"]);
    check(
        &route("servers = [{ address = \"[::1]:1\", weight = 1001 }, { weight = 1 }]"),
        &[
            "3:44: weight = 1001: write a whole number from 1 to 1000",
            "3:52: this server has no `address`, such as \"10.0.0.1:8080\"",
        ],
    );
    check(&route("at_most = 0"), &["3:11: at_most = 0: write a whole number of at least 1"]);
    check(&route("max_tunnels = 0"), &["3:15: max_tunnels = 0: write a whole number of at least 1"]);
    check(&route("client_share = 0"), &["3:16: client_share = 0: write a whole number from 1 to 100"]);
    check(&route("client_share = 101"), &["3:16: client_share = 101: write a whole number from 1 to 100"]);
    check(
        &route("check = \"tcp\"\ncheck_every = \"0s\""),
        &["4:15: check_every = \"0s\": write a time of at least 10ms"],
    );
    check(
        &route("balance = \"best\""),
        &["3:11: balance = \"best\": write round_robin or least_connections or least_cost or client or cookie"],
    );
    check(&route("check = \"x\""), &["3:9: check = \"x\": write \"tcp\", a path"]);
    check(&route("check = \"get/health\""), &["3:9: check = \"get/health\": write \"tcp\", a path"]);
    check(
        &route("check = \"GET/a\"\nservers = [\"[::1]:1\"]"),
        &["3:9: check: servers speak HTTP: check them by \"tcp\" or a path such as \"/health\""],
    );
    check(
        &route("rate = { requests = 0, by = \"x\", evry = \"1s\" }"),
        &[
            "3:21: requests = 0: write a whole number of at least 1",
            "3:29: by = \"x\": write \"address\", \"route\" or \"header:NAME\"",
            "3:34: unknown key `evry`; did you mean `every`?",
        ],
    );
    check(
        &route("balance = \"cookie\"\ncookie = \"a b\""),
        &["4:10: cookie = \"a b\": write letters, digits, `-` and `_`"],
    );
    check(&route("cookie = \"a\""), &["3:10: cookie: this is the name of the cookie of `balance = \"cookie\"`"]);
    let named = |prefix: &str| format!("[[route]]\nprefix = \"{prefix}\"\nbalance = \"cookie\"\ncookie = \"a\"\n");
    check(&(named("/a") + &named("/b")), &["8:10: cookie `a` is that of another route already, in line 4"]);
    check(&route("rate = 100"), &["3:8: rate: write { requests = 100, every = \"1s\" }"]);
    check(&route("rate = {}"), &["3:8: this rate has no `requests`, such as requests = 100"]);
    check(
        "[tls]\ncertificates = []",
        &[
            "1:1: this [tls] has no `listen`, such as listen = \"0.0.0.0:443\"",
            "2:16: certificates: TLS needs one: certificates = [{ chain = \"cert.pem\", key = \"key.pem\" }]",
        ],
    );
    check(
        "[tls]\nlisten = \"127.0.0.1:1\"\ncertificates = [{ chain = \"a\" }]",
        &["3:17: this certificate has no `key`, such as key = \"key.pem\""],
    );
}

#[test]
fn slips_in_rules_for_pages_of_other_origins_are_named() {
    let route = |more: &str| format!("[[route]]\nprefix = \"/\"\n{more}");
    check(&route("cors = \"*\""), &["3:8: cors: write { origins = [\"https://shop.example\"] }"]);
    check(&route("cors = {}"), &["3:8: this cors has no `origins`, such as origins = [\"https://shop.example\"]"]);
    check(
        &route("cors = { origins = [\"shop.test\", \"https://a/\"], headres = [] }"),
        &[
            "3:8: origin `https://a/`: an origin is a scheme, a host",
            "3:8: origin `shop.test`: an origin begins with https:// or http://",
            "3:49: unknown key `headres`; did you mean `headers`?",
        ],
    );
    check(
        &route("cors = { origins = [\"*\"], credentials = true }"),
        &["3:8: cors: with `credentials`, name the origins"],
    );
}

#[test]
fn oe18_all_mistakes_are_told_at_once_and_in_order() {
    check(
        "listen = 127.0.0.1:80\nworkers = \"4\"\n[[route]]\nprefix = \"/\"\nservers = [10.0.0.1:80]\nbalanse = \"client\"\n",
        &[
            "1:10: listen: write it in quotes: \"127.0.0.1:80\"",
            "2:11: workers = \"4\": write a whole number without quotes, such as 4",
            "5:12: servers: write it in quotes: \"10.0.0.1:80\"",
            "6:1: unknown key `balanse`; did you mean `balance`?",
        ],
    );
}

#[test]
fn a7_a_redirect_needs_something_that_speaks_tls() {
    let redirect = |more: &str| format!("redirect = true\n{more}");
    check(
        &redirect(""),
        &[
            "1:12: `redirect` sends clients to https, which this gateway does not speak: add [tls], or name in `trusted` or `proxy_protocol` the proxies that speak it",
        ],
    );
    for proxies in ["trusted", "proxy_protocol"] {
        let behind = parsed(&redirect(&format!("{proxies} = [\"10.0.0.1\"]"))).unwrap();
        assert_eq!(behind.config.redirect, Some(443));
    }
    let files = "certificates = [{ chain = \"a\", key = \"b\" }]";
    let own = parsed(&redirect(&format!("[tls]\nlisten = \"127.0.0.1:8443\"\n{files}"))).unwrap();
    assert_eq!(own.config.redirect, Some(8443));
}

#[test]
fn oe18_addresses_that_are_taken_twice_are_told() {
    let tls =
        |listen: &str| format!("[tls]\nlisten = \"{listen}\"\ncertificates = [{{ chain = \"a\", key = \"b\" }}]\n");
    check(
        &format!("listen = \"0.0.0.0:80\"\nadmin = \"127.0.0.1:80\"\n{}", tls("[::]:80")),
        &[
            "2:9: `admin` is 127.0.0.1:80, where `listen` (0.0.0.0:80) listens already",
            "4:10: `tls.listen` is [::]:80, where `listen` (0.0.0.0:80) listens already",
        ],
    );
    check(
        &tls("127.0.0.1:8000"),
        &["2:10: `tls.listen` is 127.0.0.1:8000, where `listen` (127.0.0.1:8000) listens already"],
    );
    check(&format!("listen = \"127.0.0.1:80\"\nadmin = \"127.0.0.2:80\"\n{}", tls("127.0.0.1:0")), &[]);
}

#[test]
fn oe18_what_has_no_effect_is_told() {
    check_warnings(
        "[[route]]\nprefix = \"/\"\ncheck_every = \"1s\"",
        &["3:15: `check_every` has no effect without `check`"],
    );
    check_warnings(
        "[[route]]\nprefix = \"/\"\nstrip = true",
        &["3:9: `strip` has no effect without `servers`: servers that register say it themselves"],
    );
    check_warnings(
        "[[route]]\nprefix = \"/\"\nrewrite_location = true",
        &["3:20: `rewrite_location` has no effect without `strip`"],
    );
    check_warnings(
        "[[route]]\nprefix = \"/\"\nrewrite_cookies = true",
        &["3:19: `rewrite_cookies` has no effect without `strip`"],
    );
    check_warnings(
        "[[route]]\nprefix = \"/\"\ntry_timeout = \"10s\"",
        &["3:15: `try_timeout` has no effect: the whole request may take 10s"],
    );
    for (prefix, why) in [
        ("/api/*", "a prefix has all paths below it, and no *"),
        ("/a/:id", "a prefix has all paths below it, and no parameters"),
        ("/a/{id}/b", "a prefix has all paths below it, and no parameters"),
        ("/a?b", "a prefix is a path and has no query"),
    ] {
        check_warnings(
            &format!("[[route]]\nprefix = [\"/v1/a:b\", \"{prefix}\"]"),
            &[&format!("2:10: prefix `{prefix}` matches only itself: {why}")],
        );
    }
    check_warnings(
        "cookie_secret = \"sixteen letters.\"",
        &["1:17: `cookie_secret` has no effect: no route has balance = \"cookie\""],
    );
    check_warnings(
        "max_body_bytes = 200_000_000",
        &[
            "1:18: bodies for nodes have 100663296 bytes at most, half of `max_held_bytes`, whatever `max_body_bytes` says",
        ],
    );
    check_warnings("[[route]]\nprefix = \"/\"\ntry_timeout = \"1s\"\ncheck = \"tcp\"\ncheck_every = \"1s\"", &[]);
}

#[test]
fn e3_what_makes_no_sense_for_nodes_is_a_mistake() {
    for (keys, part) in [
        ("params = {}", "at least one member"),
        ("params = { key = \"body\" }", "which the gateway adds"),
        ("params = { a = \"x\" }", "a member is from"),
        ("params = { a = 1 }", "a table of texts"),
        ("nodes = false\nany_body = true", "no node is called here"),
        ("nodes = false\nparams = { a = \"body\" }", "no node is called here"),
        ("nodes = false\ncheck = \"GET/health\"", "no node is called here"),
    ] {
        let mistakes = parsed(&format!("[[route]]\nprefix = \"/\"\n{keys}")).unwrap_err();
        let text = format!("{mistakes:?}");
        assert!(text.contains(part), "{keys}: {text}");
    }
    assert_eq!(parsed("distributor = \"off\"").unwrap().config.distributor, "off");
}

#[test]
fn gu22_the_path_of_a_unix_socket_is_absolute_and_short_enough() {
    let route = |servers: &str| format!("[[route]]\nprefix = \"/\"\nservers = {servers}\n");
    let settings = parsed(&route(
        r#"["unix:/run/앱.sock", "10.0.0.1:80", { address = "unix:/run/b.sock", weight = 50 }, "unix:/run/b.sock"]"#,
    ));
    let servers = settings.unwrap().config.routes.remove(0).servers;
    let shown: Vec<_> = servers.iter().map(|server| (server.address.to_string(), server.weight)).collect();
    let expected =
        [("unix:/run/앱.sock", 100), ("10.0.0.1:80", 100), ("unix:/run/b.sock", 50), ("unix:/run/b.sock", 100)];
    assert_eq!(shown, expected.map(|(address, weight)| (address.to_owned(), weight)));
    // All mistakes are told at once.
    let long = "x".repeat(net::MAX_UNIX_PATH_BYTES);
    let all = format!(
        "[\n\"unix:run/a.sock\",\n\"unix:@a\",\n\"unix:\",\n\"/run/a.sock\",\n\"unix:///run/a.sock\",\n\
         \"unix:/run/a.sock?x\",\n\"unix:/run/a.sock:/x\",\n\"unix:/run/\",\n\"unix:/run/\\u0000\",\n\
         \"unix:/{long}\",\n{{ address = \"unix:a\" }},\n\"http://unix:/run/a.sock\",\n\"Unix:/run/a.sock\",\n]"
    );
    let lines = [
        "4:1: server `unix:run/a.sock`: the path must be absolute, as in unix:/run/app.sock",
        "5:1: server `unix:@a`: abstract names are not supported",
        "6:1: server `unix:`: the path of the socket is missing",
        "7:1: server `/run/a.sock`: write the path of a Unix socket as unix:/run/app.sock",
        "8:1: server `unix:///run/a.sock`: write one slash after unix:",
        "9:1: server `unix:/run/a.sock?x`: write the path of the socket alone",
        "10:1: server `unix:/run/a.sock:/x`: write the path of the socket alone",
        "11:1: server `unix:/run/`: this is the path of a folder",
        "12:1: server `unix:/run/\\u{0}`: the path has a control character",
        "13:1: server `unix:/",
        "14:13: address = \"unix:a\": the path must be absolute",
        "15:1: server `http://unix:/run/a.sock`: write the host and the port alone",
        "16:1: server `Unix:/run/a.sock`: write the path of a Unix socket as unix:/run/app.sock",
    ];
    check(&route(&all), &lines);
    let too_long = parsed(&route(&all)).unwrap_err().remove(9);
    assert!(
        too_long.ends_with("the path has 108 bytes, and the system takes 107 at most (sun_path in unix(7))"),
        "{too_long}"
    );
}
