package main

import (
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer/json"
	"sigs.k8s.io/yaml"
)

const user = 65532

// judge reads the documents of a rendering, and returns them with all that is wrong with them.
func judge(text string) (all []any, faults []error) {
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{
		appsv1.AddToScheme, corev1.AddToScheme, networkingv1.AddToScheme, policyv1.AddToScheme,
	} {
		if err := add(scheme); err != nil {
			return nil, []error{err}
		}
	}
	decoder := json.NewSerializerWithOptions(json.DefaultMetaFactory, scheme, scheme, json.SerializerOptions{Yaml: true, Strict: true})
	for document := range strings.SplitSeq("\n"+text, "\n---") {
		if strings.TrimSpace(document) == "" {
			continue
		}
		object, _, err := decoder.Decode([]byte(document), nil, nil)
		if err != nil {
			faults = append(faults, err)
			continue
		}
		all = append(all, object)
	}
	if len(faults) > 0 {
		return all, faults
	}
	j := &judgement{}
	for _, object := range all {
		j.workload(object)
	}
	if j.pod == nil {
		return all, []error{errors.New("nothing in it runs quotad")}
	}
	for _, object := range all {
		j.companion(object)
	}
	return all, j.faults
}

// A judgement is what was found out about one rendering.
type judgement struct {
	pod    *corev1.PodSpec
	labels map[string]string // of the pod
	quotad *corev1.Container
	claims []corev1.PersistentVolumeClaim // that a StatefulSet makes
	faults []error
}

func (j *judgement) expect(ok bool, format string, args ...any) {
	if !ok {
		j.faults = append(j.faults, fmt.Errorf(format, args...))
	}
}

// workload looks at what runs pods.
func (j *judgement) workload(object any) {
	switch o := object.(type) {
	case *corev1.Pod:
		j.podSpec(&o.Spec, o.Labels)
		for i := range o.Spec.InitContainers {
			j.confined(&o.Spec.InitContainers[i])
		}
	case *appsv1.StatefulSet:
		j.expect(o.Spec.Replicas != nil && *o.Spec.Replicas == 1, "replicas is not 1: two would be two budgets")
		j.expect(within(o.Spec.Selector, o.Spec.Template.Labels), "the StatefulSet's selector is not its pod's labels")
		retain := appsv1.RetainPersistentVolumeClaimRetentionPolicyType
		policy := o.Spec.PersistentVolumeClaimRetentionPolicy
		j.expect(policy != nil && policy.WhenDeleted == retain && policy.WhenScaled == retain, "the volume goes with the StatefulSet")
		j.claims = o.Spec.VolumeClaimTemplates
		for i := range j.claims {
			j.claim(&j.claims[i].Spec)
		}
		j.podSpec(&o.Spec.Template.Spec, o.Spec.Template.Labels)
		j.expect(slices.ContainsFunc(o.Spec.Template.Spec.Containers, isQuotad), "quotad is not a container")
		j.serves()
	case *appsv1.Deployment:
		j.expect(o.Spec.Replicas != nil && *o.Spec.Replicas == 1, "replicas is not 1: two would be two budgets")
		j.expect(o.Spec.Strategy.Type == appsv1.RecreateDeploymentStrategyType, "the strategy is not Recreate: two pods would want one file")
		j.expect(within(o.Spec.Selector, o.Spec.Template.Labels), "the Deployment's selector is not its pod's labels")
		j.podSpec(&o.Spec.Template.Spec, o.Spec.Template.Labels)
		i := slices.IndexFunc(o.Spec.Template.Spec.InitContainers, isQuotad)
		always := corev1.ContainerRestartPolicyAlways
		j.expect(i >= 0 && o.Spec.Template.Spec.InitContainers[i].RestartPolicy != nil && *o.Spec.Template.Spec.InitContainers[i].RestartPolicy == always,
			"quotad is no sidecar: an init container with restartPolicy Always")
		j.serves()
	}
}

func isQuotad(c corev1.Container) bool { return c.Name == "quotad" }

// podSpec looks at a pod, and at quotad's container in it.
func (j *judgement) podSpec(pod *corev1.PodSpec, labels map[string]string) {
	j.pod, j.labels = pod, labels
	j.expect(pod.AutomountServiceAccountToken != nil && !*pod.AutomountServiceAccountToken, "the pod has a token of its service account")
	j.expect(!pod.HostNetwork && !pod.HostPID && !pod.HostIPC, "the pod shares namespaces of its node")
	j.expect(pod.SecurityContext != nil && pod.SecurityContext.FSGroup != nil && *pod.SecurityContext.FSGroup == user, "fsGroup is not %d", user)
	containers := append(slices.Clone(pod.InitContainers), pod.Containers...)
	for _, c := range containers {
		for _, m := range c.VolumeMounts {
			named := func(v corev1.Volume) bool { return v.Name == m.Name }
			made := func(v corev1.PersistentVolumeClaim) bool { return v.Name == m.Name }
			j.expect(slices.ContainsFunc(pod.Volumes, named) || slices.ContainsFunc(j.claims, made), "%s mounts a volume %s, which is not there", c.Name, m.Name)
		}
	}
	i := slices.IndexFunc(containers, isQuotad)
	if i < 0 {
		j.expect(false, "no container is named quotad")
		return
	}
	j.quotad = &containers[i]
	j.confined(j.quotad)
}

// confined holds a container to the restricted profile of pod security, and to a root that it cannot write.
func (j *judgement) confined(c *corev1.Container) {
	own, all := c.SecurityContext, j.pod.SecurityContext
	if own == nil || all == nil {
		j.expect(false, "%s has no security context", c.Name)
		return
	}
	j.expect(own.Privileged == nil || !*own.Privileged, "%s is privileged", c.Name)
	j.expect(own.AllowPrivilegeEscalation != nil && !*own.AllowPrivilegeEscalation, "%s may escalate its privileges", c.Name)
	j.expect(own.ReadOnlyRootFilesystem != nil && *own.ReadOnlyRootFilesystem, "the root of %s is not read-only", c.Name)
	j.expect(own.Capabilities != nil && slices.Equal(own.Capabilities.Drop, []corev1.Capability{"ALL"}) && len(own.Capabilities.Add) == 0, "%s has capabilities", c.Name)
	j.expect(all.RunAsNonRoot != nil && *all.RunAsNonRoot && (own.RunAsNonRoot == nil || *own.RunAsNonRoot), "%s may be root", c.Name)
	id, group := all.RunAsUser, all.RunAsGroup
	if own.RunAsUser != nil {
		id = own.RunAsUser
	}
	if own.RunAsGroup != nil {
		group = own.RunAsGroup
	}
	j.expect(id != nil && *id == user && group != nil && *group == user, "%s is not %d:%d", c.Name, user, user)
	confined := func(p *corev1.SeccompProfile) bool {
		return p != nil && p.Type == corev1.SeccompProfileTypeRuntimeDefault
	}
	j.expect(confined(all.SeccompProfile) && (own.SeccompProfile == nil || confined(own.SeccompProfile)), "the seccomp profile of %s is not RuntimeDefault", c.Name)
	j.expect(!c.Resources.Limits.Memory().IsZero(), "%s has no limit of memory", c.Name)
}

// serves looks at what only a daemon has: probes and room.
func (j *judgement) serves() {
	if j.quotad == nil {
		return
	}
	for name, p := range map[string]*corev1.Probe{"startup": j.quotad.StartupProbe, "readiness": j.quotad.ReadinessProbe} {
		j.expect(p != nil && p.GRPC != nil && p.GRPC.Port == 7072, "the %s probe is not gRPC on 7072", name)
	}
	live := j.quotad.LivenessProbe
	j.expect(live != nil && live.HTTPGet != nil && live.HTTPGet.Path == "/healthz", "the liveness probe is not /healthz")
	for _, e := range j.quotad.Env {
		if e.Name != "GOMEMLIMIT" {
			continue
		}
		soft, err := resource.ParseQuantity(strings.TrimSuffix(e.Value, "B")) // Go's MiB is Kubernetes's Mi
		hard := j.quotad.Resources.Limits.Memory().Value()
		j.expect(err == nil && soft.Value() < hard && soft.Value() > hard*3/4, "GOMEMLIMIT is %s, with a limit of %d bytes", e.Value, hard)
	}
}

// companion looks at what stands beside the pods.
func (j *judgement) companion(object any) {
	switch o := object.(type) {
	case *corev1.Service:
		j.expect(len(o.Spec.Selector) > 0 && subset(o.Spec.Selector, j.labels), "the Service selects other pods")
		for _, p := range o.Spec.Ports {
			named := func(c corev1.ContainerPort) bool { return c.Name == p.TargetPort.StrVal }
			j.expect(j.quotad != nil && slices.ContainsFunc(j.quotad.Ports, named), "the Service's targetPort %s is no port of quotad", p.TargetPort.String())
		}
	case *policyv1.PodDisruptionBudget:
		j.expect(within(o.Spec.Selector, j.labels), "the PodDisruptionBudget is for other pods")
	case *networkingv1.NetworkPolicy:
		j.expect(within(&o.Spec.PodSelector, j.labels), "the NetworkPolicy is for other pods")
		for _, rule := range o.Spec.Ingress {
			for _, from := range rule.From {
				j.expect(from.PodSelector == nil || maps.Equal(from.PodSelector.MatchLabels, map[string]string{"quotad-client": "true"}),
					"the callers of the NetworkPolicy are %v", from.PodSelector)
			}
		}
	case *corev1.PersistentVolumeClaim:
		j.claim(&o.Spec)
	case *corev1.ConfigMap:
		j.mounted(o.Data["quotad.yaml"])
	}
}

func (j *judgement) claim(spec *corev1.PersistentVolumeClaimSpec) {
	j.expect(len(spec.AccessModes) == 1 && strings.HasPrefix(string(spec.AccessModes[0]), "ReadWriteOnce"), "the volume is for %v", spec.AccessModes)
}

// mounted holds the paths in quotad's settings to what its container mounts.
func (j *judgement) mounted(settings string) {
	var all map[string]any
	if err := yaml.UnmarshalStrict([]byte(settings), &all); err != nil {
		j.expect(false, "quotad.yaml: %w", err)
		return
	}
	path := regexp.MustCompile(`^(?:unix://)?(/[^:]+)$`)
	found := 0
	for key, value := range all {
		m := path.FindStringSubmatch(fmt.Sprint(value))
		if m == nil || j.quotad == nil {
			continue
		}
		found++
		in := func(v corev1.VolumeMount) bool {
			return m[1] == v.MountPath || strings.HasPrefix(m[1], v.MountPath+"/")
		}
		j.expect(slices.ContainsFunc(j.quotad.VolumeMounts, in), "%s is %s, and nothing is mounted there", key, m[1])
	}
	j.expect(found >= 4, "quotad.yaml names %d paths", found)
}

// within tells whether a selector selects something, and pods with these labels.
func within(s *metav1.LabelSelector, labels map[string]string) bool {
	return s != nil && len(s.MatchLabels) > 0 && len(s.MatchExpressions) == 0 && subset(s.MatchLabels, labels)
}

func subset(some, all map[string]string) bool {
	for k, v := range some {
		if all[k] != v {
			return false
		}
	}
	return true
}
