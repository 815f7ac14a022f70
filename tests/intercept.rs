//! Interception in real namespaces: a client, a gateway that catches, a server that tells whom it sees.
//!
//! A connection that was caught is seen by the server as the gateway's; a direct one as the client's.

#![expect(clippy::unwrap_used, reason = "a panic is how a test and its helpers fail")]

#[path = "intercept/netns.rs"]
mod netns;

use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _};
use std::net::{IpAddr, SocketAddr};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use ipnet::IpNet;
use netns::*;
use wanigan::addr::{ClientAddr, ServerAddr};
use wanigan::fault::AcceptFault;
use wanigan::intercept::{Accept, InterceptError, InterceptSettings, Interceptor, Mode, Rules, accept_fault};
use wanigan::relay::{dial, relay};

#[test]
fn redirect_gives_client_and_server_of_both_families_and_bytes_pass_both_ways() {
    let Some(net) = Net::new("redirect_gives_client_and_server_of_both_families_and_bytes_pass_both_ways")
    else {
        return;
    };
    let gateway = Gateway::start(&net, settings(Mode::Redirect));
    gateway.catches_both_families(&net);
}

#[test]
fn tproxy_gives_client_and_server_of_both_families_and_bytes_pass_both_ways() {
    let Some(net) = Net::new("tproxy_gives_client_and_server_of_both_families_and_bytes_pass_both_ways")
    else {
        return;
    };
    let gateway = Gateway::start(&net, settings(Mode::TProxy));
    gateway.catches_both_families(&net);
}

#[test]
fn a_listener_on_one_address_catches_its_family() {
    let Some(net) = Net::new("a_listener_on_one_address_catches_its_family") else { return };
    let cases = [
        (Mode::Redirect, "10.71.1.1:7445", 0),
        (Mode::Redirect, "[fd71:1::1]:7445", 1),
        (Mode::TProxy, "127.0.0.1:7445", 0),
        (Mode::TProxy, "[::1]:7445", 1),
    ];
    for (mode, listen, family) in cases {
        let gateway =
            Gateway::start(&net, InterceptSettings { listen: listen.parse().unwrap(), ..settings(mode) });
        gateway.catches(&net, CLIENT[family], SERVER[family]);
        assert!(
            net.connect(CLIENT[1 - family], SERVER[1 - family], ECHO_PORT).unwrap().is_direct(),
            "{listen}"
        );
        gateway.stop();
    }
}

#[test]
fn what_is_not_to_be_caught_goes_direct() {
    let Some(net) = Net::new("what_is_not_to_be_caught_goes_direct") else { return };
    for mode in [Mode::Redirect, Mode::TProxy] {
        let gateway = Gateway::start(&net, settings(mode));
        for family in [0, 1] {
            let direct = |from, to, port| net.connect(from, to, port).unwrap().is_direct();
            assert!(!direct(CLIENT[family], SERVER[family], ECHO_PORT), "the rules are at work");
            assert!(direct(CORE[family], SERVER[family], ECHO_PORT), "a core's connection");
            assert!(direct(CLIENT[family], UNROUTED[family], ECHO_PORT), "a server without a route");
            assert!(direct(CLIENT[family], SERVER[family], LISTENER_PORT), "a port that is not named");
        }
        gateway.stop();
    }
}

#[test]
fn the_gateways_own_services_are_not_caught() {
    let Some(net) = Net::new("the_gateways_own_services_are_not_caught") else { return };
    let gateway = net.gateway.clone();
    net.enter(&gateway, || netns::serve(ECHO_PORT, true)).join().unwrap();
    for mode in [Mode::Redirect, Mode::TProxy] {
        let gateway = Gateway::start(&net, settings(mode));
        // Its far address is in a routed network.
        assert!(net.connect(CLIENT[0], FAR_GATEWAY[0], ECHO_PORT).unwrap().is_direct());
        assert!(gateway.seen.try_recv().is_err());
        gateway.stop();
    }
}

#[test]
fn a_connection_made_to_the_listener_itself_is_reset() {
    let Some(net) = Net::new("a_connection_made_to_the_listener_itself_is_reset") else { return };
    for mode in [Mode::Redirect, Mode::TProxy] {
        let gateway = Gateway::start(&net, settings(mode));
        for address in GATEWAY {
            let error = net
                .connect(CLIENT[usize::from(address.contains(':'))], address, LISTENER_PORT)
                .err()
                .unwrap();
            assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{error}");
        }
        gateway.stop();
    }
}

#[test]
fn cores_can_change_while_the_rules_stand() {
    let Some(net) = Net::new("cores_can_change_while_the_rules_stand") else { return };
    let mut gateway = Gateway::start(&net, settings(Mode::Redirect));
    gateway.order(Order::Exempt(vec![CLIENT[0].parse().unwrap(), CLIENT[1].parse().unwrap()]));
    for family in [0, 1] {
        assert!(net.connect(CLIENT[family], SERVER[family], ECHO_PORT).unwrap().is_direct());
        assert!(!net.connect(CORE[family], SERVER[family], ECHO_PORT).unwrap().is_direct());
    }
}

#[test]
fn own_connections_of_a_workstation_are_caught_but_not_those_with_our_mark() {
    let Some(net) = Net::new("own_connections_of_a_workstation_are_caught_but_not_those_with_our_mark")
    else {
        return;
    };
    // A loopback listener serves nobody else.
    for listen in ["0.0.0.0:7445", "127.0.0.1:7445"] {
        let listen = listen.parse().unwrap();
        let gateway =
            Gateway::start(&net, InterceptSettings { local: true, listen, ..settings(Mode::Redirect) });
        for family in if listen.ip().is_loopback() { 0..1 } else { 0..2 } {
            let from = SocketAddr::new(FAR_GATEWAY[family].parse().unwrap(), 0);
            let to = SocketAddr::new(SERVER[family].parse().unwrap(), ECHO_PORT);
            let program =
                net.enter(&net.gateway, move || Connection::open(from, to)).join().unwrap().unwrap();
            let (client, server) = gateway.seen.recv_timeout(Duration::from_secs(5)).unwrap();
            assert_eq!((client.0, server.0), (program.client, to));

            let ours = net.enter(&net.gateway, move || {
                runtime().block_on(async {
                    let stream = dial(ServerAddr(to), Duration::from_secs(5)).await.unwrap();
                    let mut greeting = [0; 128];
                    stream.readable().await.unwrap();
                    let len = stream.try_read(&mut greeting).unwrap();
                    (
                        stream.local_addr().unwrap(),
                        String::from_utf8_lossy(&greeting[..len]).trim().to_owned(),
                    )
                })
            });
            let (local, seen) = ours.join().unwrap();
            assert_eq!(local.to_string(), seen, "our own connection reaches the server as it is");
            assert!(gateway.seen.try_recv().is_err());
        }
        let forwarded = net.connect(CLIENT[0], SERVER[0], ECHO_PORT).unwrap();
        assert_eq!(forwarded.is_direct(), listen.ip().is_loopback());
        gateway.stop();
    }
}

#[test]
fn connections_from_before_the_rules_stay_direct() {
    let Some(net) = Net::new("connections_from_before_the_rules_stay_direct") else { return };
    for mode in [Mode::Redirect, Mode::TProxy] {
        let mut before = SERVER.map(|to| net.connect(client_for(to), to, ECHO_PORT).unwrap());
        let gateway = Gateway::start(&net, settings(mode));
        gateway.catches(&net, CLIENT[0], SERVER[0]);
        for connection in &mut before {
            connection.exchange(100_000).unwrap();
            assert!(connection.is_direct());
        }
        gateway.stop();
    }
}

#[test]
fn a_bypass_keeps_live_flows_and_catches_no_new_one() {
    let Some(net) = Net::new("a_bypass_keeps_live_flows_and_catches_no_new_one") else { return };
    for mode in [Mode::Redirect, Mode::TProxy] {
        let mut gateway = Gateway::start(&net, settings(mode.clone()));
        let mut live = SERVER.map(|to| net.connect(client_for(to), to, ECHO_PORT).unwrap());
        assert!(live.iter().all(|connection| !connection.is_direct()));
        gateway.order(Order::Bypass);
        for (connection, to) in live.iter_mut().zip(SERVER) {
            assert!(net.connect(client_for(to), to, ECHO_PORT).unwrap().is_direct());
            connection.exchange(100_000).unwrap_or_else(|error| panic!("{mode:?} {to}: {error}"));
        }
        gateway.order(Order::Apply);
        for (connection, to) in live.iter_mut().zip(SERVER) {
            assert!(!net.connect(client_for(to), to, ECHO_PORT).unwrap().is_direct());
            connection.exchange(100_000).unwrap();
        }
        gateway.stop();
    }
}

#[test]
fn a_client_port_used_again_at_once_is_caught_again() {
    let Some(net) = Net::new("a_client_port_used_again_at_once_is_caught_again") else { return };
    for (mode, port) in [(Mode::Redirect, 40_001), (Mode::TProxy, 40_002)] {
        let gateway = Gateway::start(&net, settings(mode.clone()));
        let resets = || net.run(&net.client, "nstat -asz TcpOutRsts").1;
        let before = resets();
        for _ in 0..4 {
            // The server ends first, so the gateway's client leg is the one left in TIME-WAIT.
            let connection = net.connect_from(CLIENT[0], port, SERVER[0], CURT_PORT).unwrap();
            assert!(!connection.is_direct());
            let mut rest = Vec::new();
            connection.stream.get_ref().read_to_end(&mut rest).unwrap();
            connection.finish().unwrap();
        }
        // A SYN given to the old connection is answered by an ACK, which the client refuses before it tries again.
        assert_eq!(resets(), before, "{mode:?}");
        gateway.stop();
    }
}

#[test]
fn a_foreign_flush_does_not_remove_the_rules() {
    let Some(net) = Net::new("a_foreign_flush_does_not_remove_the_rules") else { return };
    let gateway = Gateway::start(&net, settings(Mode::Redirect));
    assert!(net.run(&net.gateway, "nft flush ruleset").0);
    assert!(!net.run(&net.gateway, "nft delete table inet wanigan-lab").0);
    gateway.catches_both_families(&net);
}

#[test]
fn when_the_rules_are_lost_traffic_goes_direct_and_they_can_be_applied_again() {
    let Some(net) = Net::new("when_the_rules_are_lost_traffic_goes_direct_and_they_can_be_applied_again")
    else {
        return;
    };
    for mode in [Mode::Redirect, Mode::TProxy] {
        let mut gateway = Gateway::start(&net, settings(mode));
        let pids = Command::new("ip").args(["netns", "pids", &net.gateway]).output().unwrap();
        let pids = String::from_utf8(pids.stdout).unwrap();
        assert_eq!(pids.lines().count(), 1, "nft is the only process there: {pids}");
        assert!(Command::new("kill").args(["-9", pids.trim()]).status().unwrap().success());
        let report = gateway.order(Order::AwaitLoss);
        assert!(report.contains("signal: 9"), "{report}");
        assert!(net.connect(CLIENT[0], SERVER[0], ECHO_PORT).unwrap().is_direct());
        gateway.order(Order::Apply);
        gateway.catches_both_families(&net);
        gateway.stop();
    }
}

#[test]
fn stopping_leaves_nothing_behind() {
    let Some(net) = Net::new("stopping_leaves_nothing_behind") else { return };
    let before = kernel_state(&net);
    for mode in [Mode::Redirect, Mode::TProxy] {
        let gateway = Gateway::start(&net, settings(mode.clone()));
        assert_ne!(kernel_state(&net), before);
        gateway.stop();
        assert_eq!(kernel_state(&net), before, "{mode:?}, dropped");

        let mut gateway = Gateway::start(&net, settings(mode.clone()));
        gateway.order(Order::Remove);
        assert_eq!(kernel_state(&net), before, "{mode:?}, removed");
        assert!(net.connect(CLIENT[0], SERVER[0], ECHO_PORT).unwrap().is_direct());
        gateway.stop();
    }
}

#[test]
fn a_killed_process_leaves_no_table_and_clients_reconnect_directly() {
    let Some(net) = Net::new("a_killed_process_leaves_no_table_and_clients_reconnect_directly") else {
        return;
    };
    let before = kernel_state(&net);
    for mode in ["redirect", "tproxy"] {
        let mut process = GatewayProcess::start(&net, mode);
        let mut live = net.connect_from(CLIENT[0], 40_003, SERVER[0], ECHO_PORT).unwrap();
        assert!(!live.is_direct());
        live.exchange(1000).unwrap();
        process.kill();
        let error = live.exchange(1000).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{mode}: cut off, and told so");
        drop(live);
        let deadline = Instant::now() + Duration::from_secs(3);
        for to in SERVER {
            loop {
                match net.connect(client_for(to), to, ECHO_PORT) {
                    Ok(connection) => break assert!(connection.is_direct()),
                    Err(error) => assert!(Instant::now() < deadline, "{mode}: {error}"),
                }
            }
        }
        let same_port = net.connect_from(CLIENT[0], 40_003, SERVER[0], ECHO_PORT).unwrap();
        assert!(same_port.is_direct());
        assert_eq!(net.run(&net.gateway, "nft list tables").1, "");
    }
    // The policy route that the kill left is inert; the next run takes it over and removes it.
    assert_ne!(kernel_state(&net), before);
    let gateway = Gateway::start(&net, settings(Mode::TProxy));
    let rules = net.run(&net.gateway, "ip -4 rule").1;
    assert_eq!(rules.matches("fwmark 0x77741d15").count(), 1, "{rules}");
    gateway.catches_both_families(&net);
    gateway.stop();
    assert_eq!(kernel_state(&net), before);
}

#[test]
fn a_restart_right_after_a_kill_gets_its_table() {
    let Some(net) = Net::new("a_restart_right_after_a_kill_gets_its_table") else { return };
    for _ in 0..3 {
        GatewayProcess::start(&net, "redirect").kill();
    }
    let gateway = Gateway::start(&net, settings(Mode::Redirect));
    gateway.catches_both_families(&net);
}

#[test]
fn an_instance_name_used_twice_is_reported() {
    let Some(net) = Net::new("an_instance_name_used_twice_is_reported") else { return };
    let gateway = Gateway::start(&net, settings(Mode::Redirect));
    let second = InterceptSettings { listen: "0.0.0.0:7446".parse().unwrap(), ..settings(Mode::Redirect) };
    let error = net
        .enter(&net.gateway, move || runtime().block_on(Interceptor::bind(second)).unwrap_err())
        .join()
        .unwrap();
    assert!(matches!(&error, InterceptError::TableTaken(table) if table == "wanigan-lab"), "{error}");
    gateway.catches(&net, CLIENT[0], SERVER[0]);
}

#[test]
fn thousands_of_overlapping_networks_are_taken() {
    let Some(net) = Net::new("thousands_of_overlapping_networks_are_taken") else { return };
    let mut settings = settings(Mode::Redirect);
    settings
        .servers
        .extend((0..4000_u32).map(|i| format!("10.{}.{}.0/25", i / 256, i % 256).parse::<IpNet>().unwrap()));
    settings
        .servers
        .extend(["0.0.0.0/0", "10.0.0.0/8", "::/0", "fd71::/16"].map(|net| net.parse::<IpNet>().unwrap()));
    let gateway = Gateway::start(&net, settings);
    gateway.catches_both_families(&net);
}

#[test]
fn a_refusal_by_nft_is_told_in_its_words() {
    let Some(net) = Net::new("a_refusal_by_nft_is_told_in_its_words") else { return };
    let process = net.enter(&net.gateway, || {
        Command::new("setpriv")
            .args(["--bounding-set=-net_admin", "--inh-caps=-net_admin"])
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", "gateway_process", "--nocapture"])
            .env("WANIGAN_TEST_GATEWAY", "redirect")
            .output()
            .unwrap()
    });
    let message = String::from_utf8(process.join().unwrap().stdout).unwrap();
    assert!(message.contains("Operation not permitted"), "{message}");
    assert!(!message.contains("ready"), "{message}");
}

#[test]
fn a_shortage_of_descriptors_pauses_the_listener_and_passes() {
    let output = Command::new("sh")
        .args(["-c", "ulimit -n 64; exec \"$0\" --exact shortage_process --nocapture"])
        .arg(std::env::current_exe().unwrap())
        .env("WANIGAN_TEST_SHORTAGE", "1")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("passed over"), "{said}");
}

#[test]
// A process of its own, started by another test through the variable below; by itself it has nothing to do.
fn shortage_process() {
    if std::env::var_os("WANIGAN_TEST_SHORTAGE").is_none() {
        return;
    }
    runtime().block_on(async {
        let settings = InterceptSettings {
            mode: Mode::Listen { server: "10.71.2.2:445".parse().unwrap() },
            listen: "127.0.0.1:0".parse().unwrap(),
            manage_nftables: false,
            ..settings(Mode::Redirect)
        };
        let mut interceptor = Interceptor::bind(settings).await.unwrap();
        let _client = std::net::TcpStream::connect(interceptor.local_addrs()[0]).unwrap();
        let mut files = Vec::new();
        while let Ok(file) = File::open("/dev/null") {
            files.push(file);
        }
        let mut errors = 0;
        let until = tokio::time::Instant::now() + Duration::from_secs(1);
        while let Ok(result) = tokio::time::timeout_at(until, interceptor.accept()).await {
            assert_eq!(accept_fault(&result.unwrap_err()), AcceptFault::Exhausted);
            errors += 1;
        }
        assert!((2..=11).contains(&errors), "{errors} errors in a second");
        drop(files);
        interceptor.accept().await.unwrap();
        println!("passed over");
    });
}

#[test]
// A process of its own, started by another test through the variable below; by itself it has nothing to do.
fn gateway_process() {
    let mode = match std::env::var("WANIGAN_TEST_GATEWAY").as_deref() {
        Ok("redirect") => Mode::Redirect,
        Ok("tproxy") => Mode::TProxy,
        _ => return,
    };
    runtime().block_on(async {
        let mut interceptor = match Interceptor::bind(settings(mode)).await {
            Ok(interceptor) => interceptor,
            Err(error) => return println!("failed to {error}"),
        };
        println!("\nready");
        accept_all(&mut interceptor, &mpsc::channel().0).await;
    });
}

/// The settings of all these tests: both families, everything but `UNROUTED` routed.
fn settings(mode: Mode) -> InterceptSettings {
    InterceptSettings {
        mode,
        listen: SocketAddr::new("0.0.0.0".parse().unwrap(), LISTENER_PORT),
        ports: vec![ECHO_PORT, CURT_PORT],
        manage_nftables: true,
        local: false,
        servers: vec!["10.71.2.0/24".parse().unwrap(), "fd71:2::/64".parse().unwrap()],
        cores: CORE.map(|core| core.parse().unwrap()).to_vec(),
        instance: "lab".to_owned(),
    }
}

fn client_for(server: &str) -> &'static str {
    CLIENT[usize::from(server.contains(':'))]
}

/// What interception could leave behind: tables, rules, and routes outside the kernel's own tables.
fn kernel_state(net: &Net) -> String {
    let run = |command| net.run(&net.gateway, command).1;
    let routes = [run("ip -4 route show table all"), run("ip -6 route show table all")].concat();
    let routes = routes.lines().filter(|line| line.contains(" table ") && !line.contains("table local"));
    let routes: Vec<&str> = routes.collect();
    [run("nft list tables"), run("ip -4 rule"), run("ip -6 rule"), routes.join("\n")].concat()
}

fn runtime() -> tokio::runtime::Runtime {
    // The namespace is the thread's, so everything must stay on it.
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

#[derive(Debug)]
enum Order {
    Bypass,
    Exempt(Vec<IpAddr>),
    AwaitLoss,
    Apply,
    Remove,
}

/// An interceptor with a relay behind it, on a thread in the gateway's namespace.
struct Gateway {
    seen: mpsc::Receiver<(ClientAddr, ServerAddr)>,
    orders: Option<tokio::sync::mpsc::Sender<Order>>,
    done: mpsc::Receiver<String>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Gateway {
    fn start(net: &Net, settings: InterceptSettings) -> Self {
        let (seen, seen_by_test) = mpsc::channel();
        let (orders, mut orders_to_gateway) = tokio::sync::mpsc::channel(1);
        let (done, done_by_gateway) = mpsc::channel();
        let thread = net.enter(&net.gateway, move || {
            runtime().block_on(async {
                let mut interceptor = bind(settings).await;
                let mut rules = interceptor.take_rules();
                done.send("bound".to_owned()).unwrap();
                let obey = async {
                    while let Some(order) = orders_to_gateway.recv().await {
                        done.send(obey(order, &mut rules).await).unwrap();
                    }
                };
                tokio::select! {
                    () = obey => {}
                    () = accept_all(&mut interceptor, &seen) => {}
                }
            });
        });
        done_by_gateway.recv_timeout(Duration::from_secs(20)).expect("the gateway starts");
        Self { seen: seen_by_test, orders: Some(orders), done: done_by_gateway, thread: Some(thread) }
    }

    fn order(&mut self, order: Order) -> String {
        self.orders.as_ref().unwrap().blocking_send(order).unwrap();
        self.done.recv_timeout(Duration::from_secs(20)).expect("the order is carried out")
    }

    fn catches_both_families(&self, net: &Net) {
        for family in [0, 1] {
            self.catches(net, CLIENT[family], SERVER[family]);
        }
    }

    fn catches(&self, net: &Net, from: &str, to: &str) {
        let mut connection = net.connect(from, to, ECHO_PORT).unwrap();
        let (client, server) =
            self.seen.recv_timeout(Duration::from_secs(5)).expect("the connection was caught");
        assert_eq!(client.0, connection.client);
        assert_eq!(server.0, SocketAddr::new(to.parse().unwrap(), ECHO_PORT));
        assert!(FAR_GATEWAY.contains(&connection.seen.ip().to_string().as_str()), "{}", connection.seen);
        connection.exchange(1_000_000).unwrap();
        connection.finish().unwrap();
    }

    /// Stops the gateway; its rules go by being dropped.
    fn stop(self) {
        drop(self);
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.orders = None;
        if let Some(thread) = self.thread.take() {
            let result = thread.join();
            assert!(result.is_ok() || std::thread::panicking(), "the gateway panicked");
        }
    }
}

/// Binds once the listener of an earlier gateway is closed: until it execs, a program that another test starts has
/// a copy of it.
async fn bind(settings: InterceptSettings) -> Interceptor {
    let deadline = Instant::now() + Duration::from_secs(2);
    loop {
        match Interceptor::bind(settings.clone()).await {
            Err(InterceptError::Bind { source, .. })
                if source.kind() == std::io::ErrorKind::AddrInUse && Instant::now() < deadline =>
            {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            result => return result.unwrap(),
        }
    }
}

async fn obey(order: Order, rules: &mut Option<Rules>) -> String {
    let managed = rules.as_mut().expect("rules are managed");
    match order {
        Order::Bypass => managed.bypass().await.unwrap(),
        Order::Exempt(cores) => managed.exempt(&cores).await.unwrap(),
        Order::AwaitLoss => return managed.lost().await.to_string(),
        Order::Apply => managed.apply().await.unwrap(),
        Order::Remove => rules.take().expect("rules are managed").remove().await.unwrap(),
    }
    "done".to_owned()
}

async fn accept_all(interceptor: &mut Interceptor, seen: &mpsc::Sender<(ClientAddr, ServerAddr)>) {
    loop {
        let Ok(accepted) = interceptor.accept().await else { continue };
        let _ = seen.send((accepted.client, accepted.server));
        tokio::spawn(async move {
            let server = dial(accepted.server, Duration::from_secs(5)).await.unwrap();
            relay(accepted.stream, server, Bytes::new(), |_, _| {}).await;
        });
    }
}

/// A gateway that can be killed.
struct GatewayProcess(Child);

impl GatewayProcess {
    fn start(net: &Net, mode: &str) -> Self {
        let mut child = Command::new("ip")
            .args(["netns", "exec", &net.gateway])
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", "gateway_process", "--nocapture"])
            .env("WANIGAN_TEST_GATEWAY", mode)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let ready = lines.map_while(Result::ok).any(|line| line == "ready");
        assert!(ready, "the gateway starts");
        Self(child)
    }

    /// SIGKILL.
    fn kill(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for GatewayProcess {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
