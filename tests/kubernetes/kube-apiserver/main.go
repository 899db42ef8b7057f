// The Kubernetes API server as it is, for tests. The project publishes its source as a module and no program that could be
// downloaded everywhere, so it is built here.
package main

import (
	"os"

	"k8s.io/component-base/cli"
	"k8s.io/kubernetes/cmd/kube-apiserver/app"
)

func main() {
	os.Exit(cli.Run(app.NewAPIServerCommand()))
}
