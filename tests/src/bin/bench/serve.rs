//! `thimble serve` beside what is there already, on the same machine in the same minutes: only the ratios say something.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use thimble_tests::clients::{Expected, Sum, Way, fetch};
use thimble_tests::site::Serve;
use thimble_tests::{demo, free_port, repository, thimble};

/// A rack and more.
const CLIENTS: usize = 200;
/// dnsmasq knows no other for TFTP.
const TFTP: u16 = 69;

/// Each of 200 clients at once fetches loader, kernel and initramfs.
pub fn compare() -> Result<()> {
    // dnsmasq serves no path with `..` in it.
    let tree = fs::canonicalize(demo().join("netboot"))?;
    let files: Vec<Expected> =
        ["undionly.kpxe", "vmlinuz", "initrd"].iter().map(|name| Expected::of(&tree, name)).collect::<Result<_>>()?;
    println!(
        "serve: {CLIENTS} clients at once, loader, kernel and initramfs each, over the loopback; MB/s of all together"
    );
    let local = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));

    let http_port = free_port();
    let ours = |way, port: u16| -> Result<(Sum, u64)> {
        let mut command = thimble();
        command.arg("serve").arg(demo()).args(["--on", "127.0.0.1", "--files-only", "--json"]);
        command.args(["--tftp-port", &TFTP.to_string(), "--http-port", &http_port.to_string()]);
        let serve = Serve::start(command);
        let sum = fetch(local(port), way, CLIENTS, &files)?;
        let peak = serve.peak_memory();
        let failed = serve.end().iter().filter(|event| event["event"] == "failed").count();
        ensure!(failed == 0, "{failed} transfers failed");
        Ok((sum, peak))
    };

    let (tftp, peak) = ours(Way::Tftp { window: 1 }, TFTP)?;
    let (windowed, _) = ours(Way::Tftp { window: 16 }, TFTP)?;
    let dnsmasq = {
        let mut command = Command::new("dnsmasq");
        command.args(["--keep-in-foreground", "--conf-file=/dev/null", "--port=0", "--user=root", "--enable-tftp"]);
        command.args(["--listen-address=127.0.0.1", "--bind-interfaces", "--log-facility=-", "--quiet-tftp"]);
        command.arg(format!("--tftp-max={}", 2 * CLIENTS)).arg(format!("--tftp-root={}", tree.display()));
        let _server = Server::start(command, None)?;
        fetch(local(TFTP), Way::Tftp { window: 1 }, CLIENTS, &files)
    };
    println!("  {:<36}{:>8.0}   peak memory {} MB", "TFTP, thimble", tftp.megabytes_per_second(), peak / 1_000_000);
    match dnsmasq {
        Ok(theirs) => {
            let theirs = theirs.megabytes_per_second();
            println!(
                "  {:<36}{theirs:>8.0}   thimble: {:.2} times",
                "TFTP, dnsmasq",
                tftp.megabytes_per_second() / theirs
            );
        }
        Err(error) => println!("  {:<36}{:>8}   {error:#}", "TFTP, dnsmasq", "failed"),
    }
    println!("  {:<36}{:>8.0}", "TFTP, thimble, window of 16 blocks", windowed.megabytes_per_second());

    let (http, peak) = ours(Way::Http, http_port)?;
    let nginx = {
        let directory = tempfile::tempdir()?;
        let port = free_port();
        let config = directory.path().join("nginx.conf");
        let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .iter()
            .map(|name| format!("{name}_temp_path {};\n", directory.path().join(name).display()))
            .collect();
        fs::write(
            &config,
            format!(
                "daemon off; user root; worker_processes auto; pid {}; error_log stderr error;\n\
                 events {{ worker_connections 1024; }}\n\
                 http {{ access_log off; sendfile on; tcp_nopush on; {temporary}\n\
                 server {{ listen 127.0.0.1:{port} backlog=1024; root {}; }} }}\n",
                directory.path().join("pid").display(),
                tree.display()
            ),
        )?;
        let mut command = Command::new(nginx_program()?);
        command.arg("-p").arg(directory.path()).arg("-e").arg("stderr").arg("-c").arg(&config);
        let _server = Server::start(command, Some(local(port)))?;
        fetch(local(port), Way::Http, CLIENTS, &files)?
    };
    let theirs = nginx.megabytes_per_second();
    println!("  {:<36}{:>8.0}   peak memory {} MB", "HTTP, thimble", http.megabytes_per_second(), peak / 1_000_000);
    println!("  {:<36}{theirs:>8.0}   thimble: {:.2} times", "HTTP, nginx", http.megabytes_per_second() / theirs);
    Ok(())
}

/// Debian's, unpacked.
fn nginx_program() -> Result<String> {
    let output = Command::new(repository().join("scripts/nginx")).stderr(Stdio::inherit()).output()?;
    ensure!(output.status.success(), "scripts/nginx: {}", output.status);
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}

/// Somebody else's server; it is ended with the value.
struct Server(Child);

impl Server {
    fn start(mut command: Command, at: Option<SocketAddr>) -> Result<Self> {
        let name = command.get_program().to_string_lossy().into_owned();
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let mut server = Self(child.with_context(|| format!("{name} starts: see scripts/setup"))?);
        let deadline = Instant::now() + Duration::from_secs(5);
        let listens = || at.is_none_or(|at| TcpStream::connect(at).is_ok());
        // A server of datagrams cannot be asked whether it listens; its clients ask again.
        std::thread::sleep(Duration::from_millis(300));
        while !listens() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(50));
        }
        ensure!(server.0.try_wait()?.is_none(), "{name} does not run");
        Ok(server)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // By its own end, so that its workers end too.
        let id = nix::unistd::Pid::from_raw(self.0.id().cast_signed());
        let _ = nix::sys::signal::kill(id, nix::sys::signal::Signal::SIGTERM);
        let _ = self.0.wait();
    }
}
