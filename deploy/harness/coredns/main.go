//go:build ignore

// Command coredns with the plugins that keeper.py's Corefile names (plane.corefile) and no others: 778 packages to compile
// instead of 1376. build.py puts this file in the place of CoreDNS' own main, in a copy of its module.
package main

import (
	"github.com/coredns/coredns/coremain"
	_ "github.com/coredns/coredns/plugin/bind"
	_ "github.com/coredns/coredns/plugin/cache"
	_ "github.com/coredns/coredns/plugin/errors"
	_ "github.com/coredns/coredns/plugin/kubernetes"
)

func main() {
	coremain.Run()
}
