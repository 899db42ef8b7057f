// CRI-O's network library, told by lines what a kubelet would tell CRI-O.
//
//	crio <configurations> <plugins>
//
// reads `<verb> <namespace> <name> <UID> <sandbox> <network namespace>`, the verb being add, check or del, and answers each line
// with `ok` or `error: <what>`. It follows its configuration by itself, as CRI-O does.
package main

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/cri-o/ocicni/pkg/ocicni"
)

// Where CRI-O keeps what plugins return.
const cache = "/var/lib/cni"

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: crio <configurations> <plugins>")
		os.Exit(2)
	}
	network, err := ocicni.InitCNIWithCache("", os.Args[1], cache, os.Args[2])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	for {
		var verb string
		var pod ocicni.PodNetwork
		_, err := fmt.Scanln(&verb, &pod.Namespace, &pod.Name, &pod.UID, &pod.ID, &pod.NetNS)
		if err != nil {
			return
		}
		if err := execute(network, verb, pod); err != nil {
			fmt.Println("error:", strings.ReplaceAll(err.Error(), "\n", " "))
		} else {
			fmt.Println("ok")
		}
	}
}

func execute(network ocicni.CNIPlugin, verb string, pod ocicni.PodNetwork) error {
	switch verb {
	case "add":
		_, err := network.SetUpPod(pod)
		return err
	case "check":
		_, err := network.GetPodNetworkStatus(pod)
		return err
	case "del":
		return network.TearDownPod(pod)
	default:
		return errors.New("no such verb")
	}
}
