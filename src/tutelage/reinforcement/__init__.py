"""Reinforcement: agents that learn by acting, or from records of acting."""

from tutelage.reinforcement.replay import ReplayBuffer, Transitions
from tutelage.reinforcement.value_learning import DQNAgent, fitted_q_iteration
from tutelage.reinforcement.value_training import DQNHistory, Environment, train_dqn

__all__ = [
    "DQNAgent",
    "DQNHistory",
    "Environment",
    "ReplayBuffer",
    "Transitions",
    "fitted_q_iteration",
    "train_dqn",
]
