//! Settings that are wrong, have no effect, or come from the environment: what the programs say.

use rustix::process::Signal;
use tests::{CountingServer, GatewayFiles, Process, pick_address, request};

use crate::programs::{DISTRIBUTOR, GATEWAY};

/// The output of a program that ends by itself with this code, with each of these lines in it.
async fn said(program: &str, arguments: &[&str], environment: &[(&str, &str)], code: i32, lines: &[&str]) -> String {
    let mut process = Process::start_with(program, arguments, environment);
    assert_eq!(process.ended().await.code(), Some(code), "{}", process.output());
    for line in lines {
        process.line(line).await;
    }
    process.output()
}

#[tokio::test]
async fn oe18_check_tells_all_mistakes_of_a_file_and_of_its_certificates() {
    let files = GatewayFiles::new();
    let file = files.write(
        "listen = 127.0.0.1:80\nidle_timeout = 10\nredirect = true\n[tls]\nlisten = \"127.0.0.1:443\"\n\
         certificates = [{ chain = \"none.pem\", key = \"none.key\" }]\n[[route]]\nprefix = \"/\"\nbalanse = \"client\"\n",
    );
    let path = file.to_str().unwrap();
    let lines = [
        format!("{path}:1:10: listen: write it in quotes: \"127.0.0.1:80\""),
        format!("{path}:2:16: idle_timeout = 10: write it in quotes, such as \"1m\""),
        format!("{path}:9:1: unknown key `balanse`; did you mean `balance`?"),
    ];
    let [listen, time, key] = lines.each_ref().map(String::as_str);
    let certificate = format!("{}: No such file", files.path("none.pem").display());
    said(GATEWAY, &["check", path], &[], 2, &[listen, time, key, &certificate]).await;
    said(GATEWAY, &["--config", path], &[], 2, &[listen, time, key]).await;
}

#[tokio::test]
async fn a7_a_redirect_to_what_is_not_there_is_a_mistake() {
    let files = GatewayFiles::new();
    let file = files.write("redirect = true\n");
    let line = ":1:12: `redirect` sends clients to https, which this gateway does not speak";
    said(GATEWAY, &["check", file.to_str().unwrap()], &[], 2, &[line]).await;
}

#[tokio::test]
async fn oe18_what_has_no_effect_is_a_warning() {
    let files = GatewayFiles::new();
    let at = pick_address();
    let file = files.write(&format!("listen = \"{at}\"\n[[route]]\nprefix = \"/\"\ncheck_every = \"1s\"\n"));
    let path = file.to_str().unwrap();
    let lines =
        ["can be used, but 1 of its settings has no effect", ":4:15: `check_every` has no effect without `check`"];
    said(GATEWAY, &["check", path], &[], 0, &lines).await;
    let gateway = Process::start(GATEWAY, &["--config", path, "--admin", "off"]);
    gateway.line("`check_every` has no effect").await;
    gateway.line("listening").await;
    assert_eq!(gateway.terminate().await.code(), Some(0));
}

#[tokio::test]
async fn c12_tls_is_told_where_it_listens_and_what_sets_its_address() {
    let files = GatewayFiles::new();
    files.certificate("a", &["a.test"]);
    let (plain, secure) = (pick_address(), pick_address());
    // Relative to the file, not to the folder that the gateway is started in.
    let file = files.write(&format!(
        "listen = \"{plain}\"\n[tls]\nlisten = \"{secure}\"\ncertificates = [{{ chain = \"a.pem\", key = \"a.key\" }}]\n"
    ));
    let arguments = ["--config", file.to_str().unwrap(), "--admin", "off"];
    let taken = std::net::TcpListener::bind(secure).unwrap();
    let line = "choose another address with `listen` below [tls] in the file";
    let all = said(GATEWAY, &arguments, &[], 3, &[line]).await;
    assert!(!all.contains("--listen"), "{all}");
    drop(taken);
    let gateway = Process::start(GATEWAY, &arguments);
    let line = gateway.line("listening, with TLS").await;
    assert!(line.contains(&secure.to_string()), "{line}");
    assert_eq!(gateway.terminate().await.code(), Some(0));
    let admin = pick_address();
    let _taken = std::net::TcpListener::bind(admin).unwrap();
    let arguments = ["--listen", &plain.to_string(), "--admin", &admin.to_string()];
    said(GATEWAY, &arguments, &[], 3, &["choose another address with --admin"]).await;
}

#[tokio::test]
async fn c16_a_variable_is_blamed_for_what_it_says() {
    let wrong = [("GATEWAY_LISTEN", "foo"), ("GATEWAY_H2C", "maybe"), ("GATEWAY_WORKERS", "0")];
    let lines = [
        "GATEWAY_LISTEN=foo: ",
        "GATEWAY_H2C=maybe: write true or false",
        "GATEWAY_WORKERS=0: write a whole number from 1 to 1024",
    ];
    let all = said(GATEWAY, &[], &wrong, 2, &lines).await;
    assert!(!all.contains("--listen"), "{all}");
    let wrong = [("DISTRIBUTOR_LISTEN", "foo"), ("DISTRIBUTOR_MAX_URLS", "many")];
    let lines = ["DISTRIBUTOR_LISTEN=foo: ", "DISTRIBUTOR_MAX_URLS=many: write a whole number"];
    said(DISTRIBUTOR, &[], &wrong, 2, &lines).await;
    said(GATEWAY, &["routes"], &[("GATEWAY_ADMIN", "foo")], 2, &["the address for operators is foo: "]).await;
}

#[tokio::test]
async fn c16_switches_may_be_numbers_and_unknown_variables_are_told() {
    let at = pick_address().to_string();
    let environment = [
        ("GATEWAY_H2C", "1"),
        ("GATEWAY_EMPTY_404", "no"),
        ("GATEWAY_LISSEN", "127.0.0.1:1"),
        ("GATEWAY_TRUSTED", "10.0.0.1"),
        ("GATEWAY_PORT", "tcp://10.0.0.1:80"),
        ("GATEWAY_SERVICE_HOST", "10.0.0.1"),
        ("GATEWAY_PORT_80_TCP_ADDR", "10.0.0.1"),
    ];
    let gateway = Process::start_with(GATEWAY, &["--listen", &at, "--admin", "off"], &environment);
    gateway.line("the variable GATEWAY_LISSEN sets nothing; did you mean GATEWAY_LISTEN?").await;
    gateway.line("the variable GATEWAY_TRUSTED sets nothing: only the file can set `trusted`").await;
    gateway.line("listening").await;
    let output = gateway.output();
    assert_eq!(output.matches("sets nothing").count(), 2, "{output}");
    assert_eq!(gateway.terminate().await.code(), Some(0));
    let environment = [("DISTRIBUTOR_LISTEN", "127.0.0.1:0,[::1]:0"), ("DISTRIBUTOR_MAX_URL", "1")];
    let distributor = Process::start_with(DISTRIBUTOR, &[], &environment);
    distributor.line("the variable DISTRIBUTOR_MAX_URL sets nothing; did you mean DISTRIBUTOR_MAX_URLS?").await;
    distributor.line("[::1]:").await;
    assert_eq!(distributor.terminate().await.code(), Some(0));
}

#[tokio::test]
async fn c15_few_descriptors_are_a_warning_only_if_that_limits_what_was_asked_for() {
    for (limit, asked, expected) in [
        (20_000, "", None),
        (400, "", Some("WARN")),
        (20_000, "--max-connections 9999", Some("WARN")),
        (400, "--max-connections 100", None),
    ] {
        let at = pick_address();
        let command = format!("ulimit -Sn 256; ulimit -Hn {limit}; exec {GATEWAY} --listen {at} --admin off {asked}");
        let gateway = Process::start("bash", &["-c", &command]);
        gateway.line("listening").await;
        let line = gateway.output().lines().find(|line| line.contains("too few descriptors")).map(str::to_owned);
        assert_eq!(line.is_some(), expected.is_some(), "{command}: {line:?}");
        assert!(line.is_none_or(|line| line.contains(expected.unwrap_or_default())), "{command}");
        assert_eq!(gateway.terminate().await.code(), Some(0));
    }
}

#[tokio::test]
async fn e3_a_gateway_that_has_no_distributor_looks_for_none() {
    let (server, files, at) = (CountingServer::start().await, GatewayFiles::new(), pick_address());
    let file = files.write(&format!(
        "listen = \"{at}\"\ndistributor = \"off\"\n[[route]]\nprefix = \"/a\"\nservers = [\"{}\"]\n",
        server.address
    ));
    let mut gateway = Process::start(GATEWAY, &["--config", file.to_str().unwrap()]);
    gateway.line("listening").await;
    assert_eq!(request(at, "GET", "/a/b", "").await.status, 200);
    gateway.signal(Signal::TERM);
    gateway.line("stopped").await;
    assert_eq!(gateway.ended().await.code(), Some(0));
    assert!(!gateway.output().contains("Distributor"), "{}", gateway.output());
}

#[tokio::test]
async fn both_daemons_print_their_defaults() {
    let gateway =
        said(GATEWAY, &["--print-defaults"], &[], 0, &["idle_timeout = \"1m\"", "#[[route]]", "#rate ="]).await;
    let files = GatewayFiles::new();
    let file = files.write(&gateway);
    said(GATEWAY, &["check", file.to_str().unwrap()], &[], 0, &["is fine"]).await;
    said(DISTRIBUTOR, &["--print-defaults"], &[], 0, &["DISTRIBUTOR_LISTEN=127.0.0.1:9000"]).await;
}
