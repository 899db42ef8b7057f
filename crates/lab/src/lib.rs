//! A mesh lab of network namespaces: nodes, pods, links and the processes in them
