package fleet

import (
	"context"
	"errors"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/seakeep/seakeep/api/v1alpha1"
)

// profiles is what the cluster inventory's API calls its objects (KEP-4322). They are read as they are: its Go module is not
// needed for two fields.
var profiles = schema.GroupVersionResource{Group: "multicluster.x-k8s.io", Version: "v1alpha1", Resource: "clusterprofiles"}

// page bounds what one request to a hub answers.
const page = 500

func hubOf(h v1alpha1.FleetHub, o Options) (*rest.Config, metav1.ListOptions, error) {
	options := metav1.ListOptions{Limit: page}
	if h.LabelSelector != nil {
		options.LabelSelector = metav1.FormatLabelSelector(h.LabelSelector)
	}
	config, err := readKubeconfig(h.Kubeconfig, h.Context, o)
	return config, options, err
}

func fromSecrets(ctx context.Context, s *v1alpha1.FleetSecrets, o Options) ([]Cluster, error) {
	if s == nil {
		return nil, nil
	}
	config, options, err := hubOf(s.FleetHub, o)
	if err != nil {
		return nil, err
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("preparing to call the hub: %w", err)
	}
	var clusters []Cluster
	var errs []error
	for {
		list, err := client.CoreV1().Secrets(s.Namespace).List(ctx, options)
		if err != nil {
			return nil, fmt.Errorf("reading the Secrets of %s: %w", s.Namespace, err)
		}
		for _, secret := range list.Items {
			data, has := secret.Data[s.Key]
			if !has {
				continue // a Secret of something else
			}
			made, err := foreign(data, o)
			if err != nil {
				errs = append(errs, fmt.Errorf("reading Secret %s/%s: %w", s.Namespace, secret.Name, err))
				continue
			}
			clusters = append(clusters, Cluster{Name: secret.Name, Labels: secret.Labels, Source: "Secret " + s.Namespace + "/" + secret.Name, Config: made})
		}
		if options.Continue = list.Continue; options.Continue == "" {
			return clusters, errors.Join(errs...)
		}
	}
}

func fromProfiles(ctx context.Context, p *v1alpha1.FleetProfiles, o Options) ([]Cluster, error) {
	if p == nil {
		return nil, nil
	}
	config, options, err := hubOf(p.FleetHub, o)
	if err != nil {
		return nil, err
	}
	objects, err := dynamic.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("preparing to call the hub: %w", err)
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("preparing to call the hub: %w", err)
	}
	var clusters []Cluster
	var errs []error
	for {
		list, err := objects.Resource(profiles).Namespace(p.Namespace).List(ctx, options)
		if err != nil {
			return nil, fmt.Errorf("reading the ClusterProfiles of %s: %w", p.Namespace, err)
		}
		for _, profile := range list.Items {
			source := "ClusterProfile " + p.Namespace + "/" + profile.GetName()
			secret, err := client.CoreV1().Secrets(p.Namespace).Get(ctx, profile.GetName(), metav1.GetOptions{})
			if apierrors.IsNotFound(err) {
				err = fmt.Errorf("there is no Secret of the same name with its credentials")
			}
			var made *rest.Config
			if err == nil {
				made, err = foreign(secret.Data[p.Key], o)
			}
			if err != nil {
				errs = append(errs, fmt.Errorf("%s: %w", source, err))
				continue
			}
			clusters = append(clusters, Cluster{Name: profile.GetName(), Labels: profile.GetLabels(), Source: source, Config: made})
		}
		if options.Continue = list.GetContinue(); options.Continue == "" {
			return clusters, errors.Join(errs...)
		}
	}
}
