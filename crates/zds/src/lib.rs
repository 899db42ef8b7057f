//! Hand-over of pod network namespaces from the node agent to ztunnel
