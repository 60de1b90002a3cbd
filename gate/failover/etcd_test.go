package failover_test

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"testing"
)

// etcdMetrics reads the metrics of an etcd member, whose address is in its arguments.
func etcdMetrics(t *testing.T, pid int) string {
	t.Helper()
	line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	check(t, err)
	for arg := range strings.SplitSeq(string(line), "\x00") {
		url, found := strings.CutPrefix(arg, "--listen-metrics-urls=")
		if !found {
			continue
		}
		response, err := http.Get(url + "/metrics")
		check(t, err)
		defer response.Body.Close()
		text, err := io.ReadAll(response.Body)
		check(t, err)
		return string(text)
	}
	t.Fatalf("process %d has no metrics", pid)
	return ""
}
