package preflight

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"
)

// maxLeaseAge is how old an API server's identity lease may be: they renew every 10 s, and a slow one is none that died.
const maxLeaseAge = 2 * time.Minute

// gatherEtcd asks each endpoint over etcd's own JSON gateway, which reads and changes nothing: a status, the members, the
// alarms.
func gatherEtcd(ctx context.Context, opts Options) Fact[[]EtcdMember] {
	if len(opts.Etcd) == 0 {
		return Unknown[[]EtcdMember]("no etcd endpoint was named")
	}
	transport := &http.Transport{TLSClientConfig: opts.EtcdTLS.Clone(), ForceAttemptHTTP2: true}
	defer transport.CloseIdleConnections()
	client := &http.Client{Timeout: opts.Timeout, Transport: transport}
	members := make([]EtcdMember, len(opts.Etcd))
	var all sync.WaitGroup
	for i, endpoint := range opts.Etcd {
		all.Go(func() { members[i] = askEtcd(ctx, client, endpoint) })
	}
	all.Wait()
	return Known(members)
}

func askEtcd(ctx context.Context, client *http.Client, endpoint string) EtcdMember {
	m := EtcdMember{Endpoint: endpoint}
	status, err := call(ctx, client, endpoint, "/v3/maintenance/status", `{}`)
	if err == nil {
		err = m.readStatus(status)
	}
	if err != nil {
		return EtcdMember{Endpoint: endpoint, Unreachable: err.Error()}
	}
	if list, err := call(ctx, client, endpoint, "/v3/cluster/member/list", `{}`); err == nil {
		m.readMembers(list)
	}
	if alarms, err := call(ctx, client, endpoint, "/v3/maintenance/alarm", `{"action":"GET"}`); err == nil {
		m.readAlarms(alarms)
	}
	health, _, err := get(ctx, client, strings.TrimSuffix(endpoint, "/")+"/health")
	var answer struct {
		Health string `json:"health"`
	}
	m.Healthy = err == nil && json.Unmarshal(health, &answer) == nil && answer.Health == "true"
	return m
}

func call(ctx context.Context, client *http.Client, endpoint, path, body string) ([]byte, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, strings.TrimSuffix(endpoint, "/")+path, bytes.NewReader([]byte(body)))
	if err != nil {
		return nil, err
	}
	request.Header.Set("Content-Type", "application/json")
	response, err := client.Do(request)
	if err != nil {
		var in *url.Error
		if errors.As(err, &in) {
			err = in.Err
		}
		return nil, err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return nil, &codeError{code: response.StatusCode}
	}
	return io.ReadAll(io.LimitReader(response.Body, maxAnswer))
}

// etcdStatus is the gateway's form: 64-bit numbers are strings, and zeros are left out.
type etcdStatus struct {
	Header struct {
		MemberID string `json:"member_id"`
	} `json:"header"`
	Version string `json:"version"`
	Leader  string `json:"leader"`
	DBSize  string `json:"dbSize"`
	Quota   string `json:"dbSizeQuota"`
}

func (m *EtcdMember) readStatus(data []byte) error {
	var s etcdStatus
	if err := json.Unmarshal(data, &s); err != nil || s.Header.MemberID == "" {
		return fmt.Errorf("it does not answer as etcd 3.4 and later do: %.80q", data)
	}
	m.Version = s.Version
	m.HasLeader = s.Leader != "" && s.Leader != "0"
	m.Leader = m.HasLeader && s.Leader == s.Header.MemberID
	m.DBBytes, m.QuotaBytes = number(s.DBSize), number(s.Quota)
	return nil
}

func (m *EtcdMember) readMembers(data []byte) {
	var list struct {
		Members []struct {
			IsLearner bool `json:"isLearner"`
		} `json:"members"`
	}
	if json.Unmarshal(data, &list) != nil {
		return
	}
	m.Members = len(list.Members)
	for _, member := range list.Members {
		if member.IsLearner {
			m.Learners++
		}
	}
}

func (m *EtcdMember) readAlarms(data []byte) {
	var list struct {
		Alarms []struct {
			Alarm string `json:"alarm"`
		} `json:"alarms"`
	}
	if json.Unmarshal(data, &list) != nil {
		return
	}
	for _, a := range list.Alarms {
		m.Alarms = append(m.Alarms, a.Alarm)
	}
}

// number is 0 for what is no number ≥ 0.
func number(s string) int64 {
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n < 0 {
		return 0
	}
	return n
}
