package analysis

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation/field"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/yaml"

	"github.com/seakeep/seakeep/api/v1alpha1"
)

// Argo's kinds that are read.
const (
	argoGroup           = "argoproj.io/"
	argoTemplate        = "AnalysisTemplate"
	argoClusterTemplate = "ClusterAnalysisTemplate"
)

// maxTemplates bounds a file: how many documents, and how long.
const (
	maxTemplates     = 100
	maxTemplateBytes = 1 << 20
)

// template is Argo's AnalysisTemplate, as far as it is read; v1.9. What is not listed here is refused by its name: a metric that
// is passed over in silence would be a gate that is not there.
type template struct {
	APIVersion string         `json:"apiVersion"`
	Kind       string         `json:"kind"`
	Metadata   map[string]any `json:"metadata,omitempty"`
	Spec       struct {
		Args    []templateArg    `json:"args,omitempty"`
		Metrics []templateMetric `json:"metrics"`
		DryRun  []struct {
			MetricName string `json:"metricName"`
		} `json:"dryRun,omitempty"`
		// How long Argo keeps measurements around is its affair.
		MeasurementRetention json.RawMessage `json:"measurementRetention,omitempty"`
		Templates            json.RawMessage `json:"templates,omitempty"`
	} `json:"spec"`
	Status json.RawMessage `json:"status,omitempty"`
}

type templateArg struct {
	Name      string          `json:"name"`
	Value     *string         `json:"value,omitempty"`
	ValueFrom json.RawMessage `json:"valueFrom,omitempty"`
}

type templateMetric struct {
	Name                    string              `json:"name"`
	Interval                string              `json:"interval,omitempty"`
	InitialDelay            string              `json:"initialDelay,omitempty"`
	Count                   *intstr.IntOrString `json:"count,omitempty"`
	SuccessCondition        string              `json:"successCondition,omitempty"`
	FailureCondition        string              `json:"failureCondition,omitempty"`
	FailureLimit            *intstr.IntOrString `json:"failureLimit,omitempty"`
	InconclusiveLimit       *intstr.IntOrString `json:"inconclusiveLimit,omitempty"`
	ConsecutiveErrorLimit   *intstr.IntOrString `json:"consecutiveErrorLimit,omitempty"`
	ConsecutiveSuccessLimit *intstr.IntOrString `json:"consecutiveSuccessLimit,omitempty"`
	Provider                templateProvider    `json:"provider"`
}

type templateProvider struct {
	Prometheus *struct {
		Address        string                   `json:"address,omitempty"`
		Query          string                   `json:"query,omitempty"`
		Timeout        *int64                   `json:"timeout,omitempty"`
		Insecure       bool                     `json:"insecure,omitempty"`
		Headers        []v1alpha1.RolloutHeader `json:"headers,omitempty"`
		Authentication *authentication          `json:"authentication,omitempty"`
		RangeQuery     json.RawMessage          `json:"rangeQuery,omitempty"`
	} `json:"prometheus,omitempty"`
	Web *struct {
		Method         string                   `json:"method,omitempty"`
		URL            string                   `json:"url"`
		Headers        []v1alpha1.RolloutHeader `json:"headers,omitempty"`
		Body           string                   `json:"body,omitempty"`
		JSONBody       json.RawMessage          `json:"jsonBody,omitempty"`
		TimeoutSeconds int64                    `json:"timeoutSeconds,omitempty"`
		JSONPath       string                   `json:"jsonPath,omitempty"`
		Insecure       bool                     `json:"insecure,omitempty"`
		Authentication *authentication          `json:"authentication,omitempty"`
	} `json:"web,omitempty"`
}

// authentication that is written and empty is none, as Argo's own defaulting writes it.
type authentication struct {
	SigV4  map[string]string `json:"sigv4,omitempty"`
	OAuth2 map[string]any    `json:"oauth2,omitempty"`
}

func (a *authentication) set() bool {
	if a == nil {
		return false
	}
	for _, v := range a.SigV4 {
		if v != "" {
			return true
		}
	}
	for _, v := range a.OAuth2 {
		if v != nil && v != "" {
			return true
		}
	}
	return false
}

// ParseTemplates reads Argo's AnalysisTemplates and ClusterAnalysisTemplates, one or several documents, and returns their
// metrics. args stand before the defaults that templates give. The errors name the field inside the file.
func ParseTemplates(data []byte, args map[string]string, interval time.Duration) ([]v1alpha1.RolloutMetric, field.ErrorList) {
	invalid := func(p *field.Path, err error) field.ErrorList {
		return field.ErrorList{field.Invalid(p, field.OmitValueType{}, strings.TrimSpace(err.Error()))}
	}
	root := field.NewPath("document")
	if len(data) > maxTemplateBytes {
		return nil, invalid(root, fmt.Errorf("a file of templates must be at most %d bytes", maxTemplateBytes))
	}
	var metrics []v1alpha1.RolloutMetric
	documents := utilyaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(data)))
	for n := 0; ; {
		text, err := documents.Read()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, invalid(root, err)
		}
		if len(bytes.TrimSpace(text)) == 0 {
			continue
		}
		if n++; n > maxTemplates {
			return nil, invalid(root, fmt.Errorf("at most %d documents", maxTemplates))
		}
		var t template
		if err := yaml.UnmarshalStrict(text, &t); err != nil {
			return nil, invalid(root, err)
		}
		// A document of comments only.
		if t.Kind == "" && t.APIVersion == "" && len(t.Spec.Metrics) == 0 {
			continue
		}
		if (t.Kind != argoTemplate && t.Kind != argoClusterTemplate) || !strings.HasPrefix(t.APIVersion, argoGroup) {
			return nil, field.ErrorList{field.NotSupported(field.NewPath("kind"), t.APIVersion+" "+t.Kind, []string{argoGroup + "v1alpha1 " + argoTemplate, argoGroup + "v1alpha1 " + argoClusterTemplate})}
		}
		found, errs := t.metrics(args, interval)
		if len(errs) > 0 {
			return nil, errs
		}
		metrics = append(metrics, found...)
	}
	if len(metrics) == 0 {
		return nil, field.ErrorList{field.Required(field.NewPath("spec", "metrics"), "a template without metrics judges nothing")}
	}
	return metrics, nil
}

func (t *template) metrics(given map[string]string, interval time.Duration) ([]v1alpha1.RolloutMetric, field.ErrorList) {
	spec := field.NewPath("spec")
	var errs field.ErrorList
	if len(t.Spec.Templates) > 0 {
		errs = append(errs, field.Forbidden(spec.Child("templates"), "templates of templates are not read: name each file in analysis.templates"))
	}
	args := map[string]string{}
	for i, arg := range t.Spec.Args {
		p := spec.Child("args").Index(i)
		value, ok := given[arg.Name]
		switch {
		case ok:
			args[arg.Name] = value
		case arg.Value != nil:
			args[arg.Name] = *arg.Value
		case len(arg.ValueFrom) > 0:
			errs = append(errs, field.Forbidden(p.Child("valueFrom"), "secrets and fields are not read: give args."+arg.Name+" in analysis.args"))
		default:
			errs = append(errs, field.Required(p, "args."+arg.Name+" has no value: give it in analysis.args"))
		}
	}
	var dry []*regexp.Regexp
	for i, d := range t.Spec.DryRun {
		pattern, err := regexp.Compile(d.MetricName)
		if err != nil {
			errs = append(errs, field.Invalid(spec.Child("dryRun").Index(i).Child("metricName"), d.MetricName, err.Error()))
			continue
		}
		dry = append(dry, pattern)
	}
	var metrics []v1alpha1.RolloutMetric
	for i, m := range t.Spec.Metrics {
		p := spec.Child("metrics").Index(i)
		metric, problems := m.convert(args, interval, p)
		for _, pattern := range dry {
			metric.DryRun = metric.DryRun || pattern.MatchString(metric.Name)
		}
		errs = append(errs, problems...)
		metrics = append(metrics, metric)
	}
	return metrics, errs
}

// convert makes a metric of ours, with the template's own arguments filled in.
func (m templateMetric) convert(args map[string]string, interval time.Duration, path *field.Path) (v1alpha1.RolloutMetric, field.ErrorList) {
	var errs field.ErrorList
	text := func(s string) string { filled, _ := fill(s, args); return filled }
	number := func(v *intstr.IntOrString, name string) int {
		if v == nil {
			return 0
		}
		s := text(v.String())
		n, err := strconv.Atoi(s)
		if err != nil {
			errs = append(errs, field.Invalid(path.Child(name), s, "must be a whole number"))
		}
		return n
	}
	duration := func(s, name string) *metav1.Duration {
		if s = text(s); s == "" {
			return nil
		}
		d, err := time.ParseDuration(s)
		if err != nil {
			errs = append(errs, field.Invalid(path.Child(name), s, "must be a duration like 30s"))
			return nil
		}
		return &metav1.Duration{Duration: d}
	}
	out := v1alpha1.RolloutMetric{
		Name: m.Name, Interval: duration(m.Interval, "interval"), InitialDelay: duration(m.InitialDelay, "initialDelay"),
		Count: number(m.Count, "count"), SuccessCondition: text(m.SuccessCondition), FailureCondition: text(m.FailureCondition),
		FailureLimit: number(m.FailureLimit, "failureLimit"), InconclusiveLimit: number(m.InconclusiveLimit, "inconclusiveLimit"),
		ConsecutiveSuccessLimit: number(m.ConsecutiveSuccessLimit, "consecutiveSuccessLimit"),
	}
	if m.ConsecutiveErrorLimit != nil {
		out.ConsecutiveErrorLimit = new(number(m.ConsecutiveErrorLimit, "consecutiveErrorLimit"))
	}
	// Argo measures once when it is given neither an interval nor a count.
	if m.Interval == "" && m.Count == nil {
		out.Count = 1
	}
	if p := m.Provider.Prometheus; p != nil {
		at := path.Child("provider", "prometheus")
		if len(p.RangeQuery) > 0 {
			errs = append(errs, field.Forbidden(at.Child("rangeQuery"), "only instant queries are asked"))
		}
		if p.Authentication.set() {
			errs = append(errs, field.Forbidden(at.Child("authentication"), "is not supported: send a header"))
		}
		q := &v1alpha1.RolloutPrometheus{Address: text(p.Address), Query: text(p.Query), Insecure: p.Insecure, Headers: filledHeaders(p.Headers, text)}
		if p.Timeout != nil {
			q.Timeout = int(*p.Timeout)
		}
		out.Provider.Prometheus = q
	}
	if w := m.Provider.Web; w != nil {
		at := path.Child("provider", "web")
		if w.Authentication.set() {
			errs = append(errs, field.Forbidden(at.Child("authentication"), "is not supported: send a header"))
		}
		body := w.Body
		if len(w.JSONBody) > 0 {
			body = string(w.JSONBody)
		}
		out.Provider.Web = &v1alpha1.RolloutWeb{
			URL: text(w.URL), Method: w.Method, Headers: filledHeaders(w.Headers, text), Body: text(body),
			TimeoutSeconds: int(w.TimeoutSeconds), JSONPath: text(w.JSONPath), Insecure: w.Insecure,
		}
	}
	out.SetDefaults(interval)
	return out, append(errs, out.Validate(path)...)
}

func filledHeaders(headers []v1alpha1.RolloutHeader, text func(string) string) []v1alpha1.RolloutHeader {
	filled := make([]v1alpha1.RolloutHeader, len(headers))
	for i, h := range headers {
		filled[i] = v1alpha1.RolloutHeader{Key: h.Key, Value: text(h.Value), ValueFrom: h.ValueFrom}
	}
	return filled
}
