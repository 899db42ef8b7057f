// The runtime's side of NRI, by the library that containerd and CRI-O use for it.
//
//	nri <socket>
//
// serves the socket until its input ends. Each line read, `<namespace> <name> <UID> <sandbox> <network namespace>`, is a pod that
// plugins are told of from then on; it is answered with `ok`. A path of `-` is the node's own namespace.
package main

import (
	"context"
	"fmt"
	"os"
	"sync"

	"github.com/containerd/nri/pkg/adaptation"
	"github.com/containerd/nri/pkg/api"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: nri <socket>")
		os.Exit(2)
	}
	if err := serve(os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func serve(socket string) error {
	var lock sync.Mutex
	var pods []*api.PodSandbox
	tell := func(ctx context.Context, plugin adaptation.SyncCB) error {
		lock.Lock()
		told := pods
		lock.Unlock()
		_, err := plugin(ctx, told, nil)
		return err
	}
	change := func(context.Context, []*adaptation.ContainerUpdate) ([]*adaptation.ContainerUpdate, error) {
		return nil, nil
	}
	nowhere := socket + ".plugins"
	runtime, err := adaptation.New("test", "1", tell, change, adaptation.WithSocketPath(socket),
		adaptation.WithPluginPath(nowhere), adaptation.WithPluginConfigPath(nowhere))
	if err != nil {
		return err
	}
	if err := runtime.Start(); err != nil {
		return err
	}
	defer runtime.Stop()
	for {
		pod := &api.PodSandbox{Linux: &api.LinuxPodSandbox{}}
		var path string
		if _, err := fmt.Scanln(&pod.Namespace, &pod.Name, &pod.Uid, &pod.Id, &path); err != nil {
			return nil
		}
		pod.Linux.Namespaces = []*api.LinuxNamespace{{Type: "pid"}}
		if path != "-" {
			network := &api.LinuxNamespace{Type: "network", Path: path}
			pod.Linux.Namespaces = append(pod.Linux.Namespaces, network)
		}
		lock.Lock()
		pods = append(pods, pod)
		lock.Unlock()
		fmt.Println("ok")
	}
}
