//! The `larder-cluster` binary: looks at a cluster, changes it, and runs one on this machine that follows its load.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand};
use larder_node::CommandLine;
use larder_node::cluster::{Autoscaler, Figures, Limits, Operator};
use larder_protocol::peer::{State, Status, View};
use larder_protocol::ring::{Hashing, Ring, Server};
use tokio::signal::unix::{SignalKind, signal};

#[derive(Debug, Parser)]
#[command(
    name = "larder-cluster",
    version,
    about = "Looks at a cluster of larder-nodes, changes it, or runs one here."
)]
struct Arguments {
    #[command(subcommand)]
    command: What,
}

/// How a cluster is reached.
#[derive(Debug, Clone, Args)]
struct Reach {
    /// A member's port for members
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:21211", env = "LARDER_CLUSTER_ADDRESS")]
    address: String,
    /// The cluster's name
    #[arg(long, value_name = "NAME", default_value = "larder", env = "LARDER_CLUSTER")]
    cluster: String,
    /// The file with the members' key
    #[arg(long, value_name = "FILE", env = "LARDER_CLUSTER_KEY_FILE")]
    cluster_key_file: Option<PathBuf>,
    /// The members are started with -Z: they speak TLS with each other and with this program
    #[arg(long, env = "LARDER_CLUSTER_TLS")]
    tls: bool,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Shows the members and how they are
    Status {
        #[command(flatten)]
        reach: Reach,
    },
    /// Makes a member leave: it hands its items on first
    Drain {
        /// The member's id
        id: String,
        #[command(flatten)]
        reach: Reach,
    },
    /// Declares a member dead, for good: its keys go to others. If it lives in truth, its readers may see old values until it
    /// learns that
    Forget {
        /// The member's id
        id: String,
        #[command(flatten)]
        reach: Reach,
    },
    /// Shows which share of the keys would move with other members, and changes nothing
    Plan {
        /// A member that would leave; may be given several times
        #[arg(long, value_name = "ID")]
        remove: Vec<String>,
        /// The client address of a node that would join; may be given several times
        #[arg(long, value_name = "HOST:PORT")]
        add: Vec<String>,
        /// The members' --cluster-hashing
        #[arg(long, default_value = "ketama-weighted")]
        hashing: String,
        #[command(flatten)]
        reach: Reach,
    },
    /// Runs a cluster on this machine, with as many nodes as its load asks for
    Up(Up),
}

#[derive(Debug, Args)]
struct Up {
    /// Fewest nodes
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=64))]
    min: u16,
    /// Most nodes
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=64))]
    max: u16,
    /// The first node's port for clients; the others have those after it. Ports for members are 10000 above
    #[arg(long, default_value_t = 11211)]
    first_port: u16,
    /// The cluster's name
    #[arg(long, value_name = "NAME", default_value = "larder")]
    cluster: String,
    /// Share of their time, in percent, above which workers are busy: then there is one node more
    #[arg(long, value_name = "PERCENT", default_value_t = 65, value_parser = clap::value_parser!(u8).range(1..=100))]
    up_above: u8,
    /// Share of their time, in percent, below which they would have to be with one node less
    #[arg(long, value_name = "PERCENT", default_value_t = 45, value_parser = clap::value_parser!(u8).range(..100))]
    down_below: u8,
    /// Seconds for which workers must be busy before there is one node more
    #[arg(long, default_value_t = 120)]
    up_after: u64,
    /// Seconds for which one node less must do before there is one less
    #[arg(long, default_value_t = 900)]
    down_after: u64,
    /// Reads of the datastore a second that one node is worth: where one more saves as many, there is one more
    #[arg(long)]
    worth: Option<f64>,
    /// The program of a node [default: larder-node beside this one]
    #[arg(long, value_name = "FILE")]
    node: Option<PathBuf>,
    /// Flags for every node
    #[arg(last = true)]
    flags: Vec<String>,
}

/// Returns the command line, for the manual too.
pub(crate) fn command_line() -> clap::Command {
    larder_node::without_foreign_variables(Arguments::command())
}

fn main() -> ExitCode {
    let matches = command_line().get_matches();
    let arguments = Arguments::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let result = runtime.and_then(|runtime| runtime.block_on(carry_out(arguments.command)));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn carry_out(what: What) -> io::Result<()> {
    match what {
        What::Status { reach } => {
            let view = reach.connect().await?.view;
            print!("{}", table(&view, &reach.statuses(&view).await));
            Ok(())
        }
        What::Drain { id, reach } => {
            let view = reach.connect().await?.view;
            let member = view.members.get(&id).ok_or_else(|| io::Error::other(format!("there is no member {id}")))?;
            println!("{}", reach.at(&member.peer).connect().await?.drain().await?);
            Ok(())
        }
        What::Forget { id, reach } => {
            println!("{}", reach.connect().await?.forget(&id).await?);
            Ok(())
        }
        What::Plan { remove, add, hashing, reach } => {
            let hashing = hashing.parse().map_err(io::Error::other)?;
            plan(&reach.connect().await?.view, &remove, &add, hashing)
        }
        What::Up(up) => Supervisor::new(up)?.run().await,
    }
}

impl Reach {
    fn at(&self, address: &str) -> Reach {
        Reach { address: address.to_owned(), ..self.clone() }
    }

    async fn connect(&self) -> io::Result<Operator> {
        let connecting = Operator::connect(&self.address, &self.cluster, self.cluster_key_file.as_deref(), self.tls);
        connecting.await.map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", self.address)))
    }

    /// How the members are that answer within a second.
    async fn statuses(&self, view: &View) -> BTreeMap<String, Status> {
        let ask = |id: &str, peer: &str| {
            let (id, reach) = (id.to_owned(), self.at(peer));
            async move {
                let asked = async { reach.connect().await?.status().await };
                let status = tokio::time::timeout(Duration::from_secs(1), asked).await;
                status.ok().and_then(io::Result::ok).map(|status| (id, status))
            }
        };
        let all = view.live().map(|(id, member)| ask(id, &member.peer));
        futures_util::future::join_all(all).await.into_iter().flatten().collect()
    }
}

fn table(view: &View, statuses: &BTreeMap<String, Status>) -> String {
    let mut text = format!("list {}\n", view.version());
    text += "member                     clients                state     settled   cpu   ops/s  misses/s  memory\n";
    for (id, member) in view.live() {
        let clients = format!("{}:{}", member.host, member.port);
        text += &format!("{id:26} {clients:22} {:9} ", member.state.name());
        text += &match statuses.get(id) {
            Some(status) => format!(
                "{:7} {:3.0} % {:7.0} {:9.0} {:5.0} %\n",
                if status.settled { "yes" } else { "no" },
                status.cpu * 100.0,
                status.operations,
                status.misses,
                status.memory * 100.0
            ),
            None => "does not answer\n".to_owned(),
        };
    }
    text
}

fn plan(view: &View, remove: &[String], add: &[String], hashing: Hashing) -> io::Result<()> {
    if let Some(unknown) = remove.iter().find(|id| view.state(id) != Some(State::Active)) {
        return Err(io::Error::other(format!("{unknown} is no active member")));
    }
    let server = |host: &str, port| Server { host: host.to_owned(), port, weight: 1, name: None };
    let now: Vec<(String, Server)> =
        view.in_state(State::Active).map(|(id, member)| (id.to_owned(), server(&member.name, member.port))).collect();
    let mut then: Vec<(String, Server)> = now.iter().filter(|(id, _)| !remove.contains(id)).cloned().collect();
    for address in add {
        let parsed = larder_protocol::HostPort::parse(address).map_err(|error| io::Error::other(error.to_string()))?;
        then.push((address.clone(), server(parsed.host, parsed.port.unwrap_or(11211))));
    }
    if now.is_empty() || then.is_empty() {
        return Err(io::Error::other("a cluster needs a member"));
    }
    let ring = |nodes: &[(String, Server)]| {
        Ring::new(&nodes.iter().map(|(_, server)| server.clone()).collect::<Vec<_>>(), hashing)
    };
    let (before, after) = (ring(&now), ring(&then));
    let mut shares: BTreeMap<&str, (u32, u32)> = BTreeMap::new();
    let mut moved = 0;
    const KEYS: u32 = 100_000;
    for number in 0..KEYS {
        let key = format!("key:{number}");
        let (old, new) = (&now[before.owner(key.as_bytes())].0, &then[after.owner(key.as_bytes())].0);
        shares.entry(old).or_default().0 += 1;
        shares.entry(new).or_default().1 += 1;
        moved += u32::from(old != new);
    }
    let percent = |keys: u32| f64::from(keys) * 100.0 / f64::from(KEYS);
    println!("{:.1} % of the keys move", percent(moved));
    for (id, (old, new)) in shares {
        println!("{id:26} {:5.1} % -> {:5.1} %", percent(old), percent(new));
    }
    Ok(())
}

/// Where the node with this port for clients listens for members.
fn peer(port: u16) -> String {
    format!("127.0.0.1:{}", port + 10_000)
}

impl Up {
    /// What the node with this port for clients is started with.
    fn arguments(&self, port: u16) -> impl Iterator<Item = String> {
        let seeds: Vec<String> = (self.first_port..self.first_port + self.max).map(peer).collect();
        let own = [
            ["-l", "127.0.0.1"].map(str::to_owned),
            ["-p".to_owned(), port.to_string()],
            ["--cluster".to_owned(), self.cluster.clone()],
            ["--cluster-listen".to_owned(), peer(port)],
            ["--seeds".to_owned(), seeds.join(",")],
        ];
        own.into_iter().flatten().chain(self.flags.clone())
    }
}

/// A node that the supervisor runs.
struct Node {
    port: u16,
    child: Child,
    /// It was asked to leave.
    leaving: bool,
}

struct Supervisor {
    up: Up,
    program: PathBuf,
    /// What nodes were given for links, which this program reaches them by.
    cluster_key_file: Option<PathBuf>,
    tls: bool,
    nodes: Vec<Node>,
    rule: Autoscaler,
    begun: Instant,
    said: String,
}

/// Between looks at the nodes.
const LOOK: Duration = Duration::from_secs(1);

impl Supervisor {
    fn new(up: Up) -> io::Result<Supervisor> {
        if up.min > up.max {
            return Err(io::Error::other("--min is more than --max"));
        }
        if up.down_below >= up.up_above {
            return Err(io::Error::other("--down-below is not less than --up-above: nodes would come and go by turns"));
        }
        let beside = std::env::current_exe()?.with_file_name("larder-node");
        let limits = Limits {
            min: up.min.into(),
            max: up.max.into(),
            worth: up.worth,
            busy: f64::from(up.up_above) / 100.0,
            idle: f64::from(up.down_below) / 100.0,
            up_after: Duration::from_secs(up.up_after),
            down_after: Duration::from_secs(up.down_after),
            rest_after_up: Duration::from_secs(up.up_after / 2),
            rest_after_down: Duration::from_secs(up.down_after / 3),
        };
        let program = up.node.clone().unwrap_or(beside);
        let words = std::iter::once(program.clone().into()).chain(up.arguments(up.first_port).map(Into::into));
        let settings = CommandLine::read(words).unwrap_or_else(|error| error.exit()).settings;
        Ok(Supervisor {
            program,
            cluster_key_file: settings.cluster.cluster_key_file,
            tls: settings.tls,
            rule: Autoscaler::new(limits),
            up,
            nodes: Vec::new(),
            begun: Instant::now(),
            said: String::new(),
        })
    }

    fn reach(&self, port: u16) -> Reach {
        Reach {
            address: peer(port),
            cluster: self.up.cluster.clone(),
            cluster_key_file: self.cluster_key_file.clone(),
            tls: self.tls,
        }
    }

    fn say(&mut self, what: String) {
        if self.said != what {
            println!("{:6.0} s  {what}", self.begun.elapsed().as_secs_f64());
            self.said = what;
        }
    }

    fn start(&self, port: u16) -> io::Result<Node> {
        let child = Command::new(&self.program)
            .args(self.up.arguments(port))
            .stdin(Stdio::null())
            .spawn()
            .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", self.program.display())))?;
        Ok(Node { port, child, leaving: false })
    }

    async fn run(mut self) -> io::Result<()> {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut look = tokio::time::interval(LOOK);
        loop {
            tokio::select! {
                _ = look.tick() => self.look().await?,
                _ = terminate.recv() => break,
                _ = interrupt.recv() => break,
            }
        }
        self.say("stopping".to_owned());
        loop {
            self.nodes.retain_mut(|node| matches!(node.child.try_wait(), Ok(None)));
            if self.nodes.is_empty() {
                return Ok(());
            }
            // More than once: nobody is left to hand items to. Signals that come too close to each other count as one.
            self.nodes.iter().for_each(|node| terminate_process(&node.child));
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    /// Restarts what ended, and adds or drains a node where the rule says so.
    async fn look(&mut self) -> io::Result<()> {
        for at in (0..self.nodes.len()).rev() {
            let Some(status) = self.nodes[at].child.try_wait()? else { continue };
            let Node { port, leaving, .. } = self.nodes.remove(at);
            if leaving {
                self.say(format!("the node at {port} has left"));
                if !status.success() {
                    // It cannot come back to say so itself.
                    self.forget(port).await;
                }
            } else {
                self.say(format!("the node at {port} ended ({status}): it is started again"));
                let node = self.start(port)?;
                self.nodes.push(node);
            }
        }
        while self.nodes.len() < self.up.min.into() {
            self.add()?;
        }
        let Some((view, statuses)) = self.ask().await else {
            self.say("no node answers yet".to_owned());
            return Ok(());
        };
        let active = view.in_state(State::Active).count();
        let mean = |figure: fn(&Status) -> f32| {
            statuses.values().map(|status| f64::from(figure(status))).sum::<f64>() / statuses.len().max(1) as f64
        };
        let sum = |figure: fn(&Status) -> f32| statuses.values().map(|status| f64::from(figure(status))).sum();
        let figures = Figures {
            nodes: active,
            changing: active != self.nodes.len() || statuses.values().any(|status| !status.settled),
            cpu: mean(|status| status.cpu),
            gain: sum(|status| status.gain),
            loss: sum(|status| status.loss),
            hottest: statuses.values().map(|status| f64::from(status.hottest)).fold(0.0, f64::max),
        };
        let decision = self.rule.decide(self.begun.elapsed(), &figures);
        if decision.wanted > active && self.nodes.len() == active {
            self.say(format!("{active} -> {} nodes: {}", decision.wanted, decision.reason));
            self.add()?;
        } else if decision.wanted < active
            && let Some(last) = self.nodes.iter_mut().filter(|node| !node.leaving).max_by_key(|node| node.port)
        {
            last.leaving = true;
            terminate_process(&last.child);
            self.say(format!("{active} -> {} nodes: {}", decision.wanted, decision.reason));
        } else {
            self.say(format!("{active} nodes: {}", decision.reason));
        }
        Ok(())
    }

    fn add(&mut self) -> io::Result<()> {
        let ports = self.up.first_port..self.up.first_port + self.up.max;
        let free = ports.into_iter().find(|port| self.nodes.iter().all(|node| node.port != *port));
        if let Some(port) = free {
            let node = self.start(port)?;
            self.nodes.push(node);
        }
        Ok(())
    }

    async fn ask(&self) -> Option<(View, BTreeMap<String, Status>)> {
        for node in self.nodes.iter().filter(|node| !node.leaving) {
            if let Ok(operator) = self.reach(node.port).connect().await
                && operator.view.in_state(State::Active).next().is_some()
            {
                let statuses = self.reach(node.port).statuses(&operator.view).await;
                return Some((operator.view, statuses));
            }
        }
        None
    }

    async fn forget(&mut self, port: u16) {
        let id = format!("127.0.0.1:{port}");
        for node in self.nodes.iter().filter(|node| !node.leaving) {
            if let Ok(mut operator) = self.reach(node.port).connect().await
                && operator.forget(&id).await.is_ok()
            {
                return;
            }
        }
    }
}

fn terminate_process(child: &Child) {
    let process = nix::unistd::Pid::from_raw(child.id() as i32);
    // It may have ended already.
    let _ = nix::sys::signal::kill(process, nix::sys::signal::Signal::SIGTERM);
}
