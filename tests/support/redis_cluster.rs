use super::{PATIENCE, Port, Redis, eventually};

/// A Redis Cluster: masters that share all slots, and what a test does to it.
pub struct RedisCluster {
    pub nodes: Vec<Redis>,
    /// What the nodes talk to each other on.
    buses: Vec<Port>,
}

impl RedisCluster {
    pub fn start(masters: u16) -> RedisCluster {
        let mut cluster = RedisCluster {
            nodes: Vec::new(),
            buses: Vec::new(),
        };
        for place in 0..masters {
            let node = cluster.add();
            let first = 16_384_u32 * u32::from(place) / u32::from(masters);
            let last = 16_384_u32 * (u32::from(place) + 1) / u32::from(masters) - 1;
            cluster.nodes[node].run::<()>(
                "CLUSTER",
                &["ADDSLOTSRANGE", &first.to_string(), &last.to_string()],
            );
        }
        cluster.settle(usize::from(masters));
        cluster
    }

    /// One more node, known to the first; its place among the nodes.
    fn add(&mut self) -> usize {
        let bus = Port::free();
        let number = bus.number().to_string();
        let node = Redis::start_with(&[
            "--cluster-enabled",
            "yes",
            "--cluster-port",
            &number,
            "--cluster-node-timeout",
            "2000",
        ]);
        self.nodes.push(node);
        self.buses.push(bus);
        let place = self.nodes.len() - 1;
        let (port, bus) = (self.nodes[0].port(), self.buses[0].number());
        let (port, bus) = (port.to_string(), bus.to_string());
        self.nodes[place].run::<()>("CLUSTER", &["MEET", "127.0.0.1", &port, &bus]);
        place
    }

    /// Until every node has seen the whole cluster.
    fn settle(&self, masters: usize) {
        for node in &self.nodes {
            eventually(PATIENCE, || {
                let info: String = node.run("CLUSTER", &["INFO"]);
                info.contains("cluster_state:ok")
                    && info.contains(&format!("cluster_size:{masters}\r"))
                    && info.contains(&format!("cluster_known_nodes:{}\r", self.nodes.len()))
            });
        }
    }

    /// A replica of a master, once it is in step; its place.
    pub fn add_replica(&mut self, of: usize) -> usize {
        let masters = self.nodes.len();
        let place = self.add();
        self.settle(masters);
        let master = self.id(of);
        self.nodes[place].run::<()>("CLUSTER", &["REPLICATE", &master]);
        eventually(PATIENCE, || {
            let info: String = self.nodes[place].run("INFO", &["replication"]);
            info.contains("role:slave") && info.contains("master_link_status:up")
        });
        place
    }

    fn id(&self, place: usize) -> String {
        self.nodes[place].run("CLUSTER", &["MYID"])
    }

    /// Which node holds a key's slot.
    pub fn owner(&self, key: &str) -> usize {
        let found = self
            .nodes
            .iter()
            .position(|node| !node.run::<Vec<String>>("KEYS", &[key]).is_empty());
        found.expect("a node has it")
    }

    /// Moves a key's slot with all that is in it, key by key, as redis-cli does.
    pub fn move_slot(&self, key: &str, from: usize, to: usize) {
        let (source, target) = (&self.nodes[from], &self.nodes[to]);
        let slot = source.run::<u16>("CLUSTER", &["KEYSLOT", key]).to_string();
        let (source_id, target_id) = (self.id(from), self.id(to));
        target.run::<()>("CLUSTER", &["SETSLOT", &slot, "IMPORTING", &source_id]);
        source.run::<()>("CLUSTER", &["SETSLOT", &slot, "MIGRATING", &target_id]);
        let port = target.port().to_string();
        loop {
            let keys: Vec<String> = source.run("CLUSTER", &["GETKEYSINSLOT", &slot, "1"]);
            let Some(key) = keys.first() else { break };
            source.run::<()>("MIGRATE", &["127.0.0.1", &port, key, "0", "5000"]);
        }
        for node in [target, source] {
            node.run::<()>("CLUSTER", &["SETSLOT", &slot, "NODE", &target_id]);
        }
    }
}
